# SPDX-License-Identifier: Apache-2.0
"""The whole stack on the real hypervisor, spoken with over the bus, and machines for it; one stack for many tests."""

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from tests.xen import guests
from tests.xen.acceptance import console, world, xl
from tests.xenopsd.kill.lab import Lab, MortalStack, running
from xenops.errors import Fault
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge
from xenops.types.vbd import Vbd
from xenops.types.vif import Vif
from xenops.types.vm import (
    MIB,
    BuilderInfo,
    Direct,
    Hvm,
    PowerState,
    Pv,
    Pvh,
    SchedulerParams,
    SchedulerPriority,
    Vm,
    VmState,
)
from xenopsd.store.machine import Device, Machine

VM = "5d6c4b00-0000-4000-8000-00000000d1ed"
LINUX = Direct(kernel=str(guests.LINUX_ELF), ramdisk=str(guests.LINUX_INITRAMFS), cmdline=guests.LINUX_CMDLINE)
TYPES: dict[str, tuple[BuilderInfo, int]] = {
    "pv": (Pv(boot=Direct(kernel=str(guests.GRUB_PV))), guests.GRUB_MEMORY_MIB),
    "pvh": (Pvh(boot=Direct(kernel=str(guests.GRUB_PVH))), guests.GRUB_MEMORY_MIB),
    "linux": (Pv(boot=LINUX), guests.LINUX_MEMORY_MIB),
    "hvm": (Hvm(boot_order="c", video_mib=4), guests.HVM_MEMORY_MIB),
}
STORY_S = 300.0
T = TypeVar("T")


class XenLab(Lab):
    """This host."""

    async def look(self) -> frozenset[str]:
        return await asyncio.to_thread(world.look)

    async def changes(self, before: frozenset[str]) -> list[str]:
        changes = await asyncio.to_thread(world.settle, before)
        if changes:
            print("\n".join([*changes, str(await self.xenops.get_diagnostics())]))
        return changes

    async def up(self, machine: Machine, *, answers: bool) -> None:
        """GRUB answers nobody, but opens its disks; an HVM guest without drivers does neither."""
        state = await self.stat(machine.id)
        if isinstance(machine.vm.ty, Hvm) or state.power_state is not PowerState.RUNNING:
            return
        [domid] = state.domids
        with console.attached(domid) as guest:
            for word in (guests.LINUX_UP, "\n") if is_linux(machine) else (guests.GRUB_PROMPT,):
                await asyncio.to_thread(guest.wait, word)

    async def adopted(self, machine: Machine, state: VmState) -> None:
        """xl knows it by its name, its console is there, and a Linux that runs obeys there and reads its first disk."""
        [domid] = state.domids
        assert int(await asyncio.to_thread(xl.run, "domid", machine.vm.name)) == domid
        assert state.consoles or state.power_state is PowerState.PAUSED
        assert all(Path(each.path).exists() for each in state.consoles)
        if is_linux(machine) and state.power_state is PowerState.RUNNING:
            with console.attached(domid) as guest:
                await asyncio.to_thread(guest.run, "dd if=/dev/xvda of=/dev/null bs=4096 count=1")

    async def stat(self, vm: str = VM) -> VmState:
        return (await self.xenops.VM.stat(vm)).state

    async def add(self, machine: Machine) -> None:
        await self.xenops.VM.import_metadata(msgspec.to_builtins(machine.metadata()))

    async def done(self, asked: Awaitable[str]) -> Any:
        """What was asked for is; its fault is raised here."""
        return await self.xenops.finished(await asked)

    async def until(self, state: PowerState, vm: str = VM) -> None:
        """Wait until the machine is that."""
        token = await self.xenops.UPDATES.last_id()
        while (await self.stat(vm)).power_state is not state:
            token = (await self.xenops.UPDATES.get(token, 30.0)).token

    async def tidy(self) -> None:
        """After a test that failed: the next one is not to fail for that."""
        if self.stack.xenopsd.returncode is not None:
            await self.revive()
        for id in [stat.vm.id for stat in await self.xenops.VM.list()]:
            with suppress(Fault):
                await self.done(self.xenops.VM.shutdown(id))
                await self.xenops.VM.remove(id)

    def image(self, name: str, mib: int = 4) -> str:
        """A raw disk."""
        with (self.folder / name).open("wb") as file:
            file.truncate(mib * MIB)
        return str(self.folder / name)


def is_linux(machine: Machine) -> bool:
    ty = machine.vm.ty
    return isinstance(ty, Pv | Pvh) and isinstance(ty.boot, Direct) and ty.boot.kernel == LINUX.kernel


def machine(kind: str, *drives: Vbd, id: str = VM, memory_mib: int = 0, ty: BuilderInfo | None = None) -> Machine:
    """A guest of that kind with these drives and an interface."""
    usual, usual_mib = TYPES[kind]
    memory = (memory_mib or usual_mib) * MIB
    vm = Vm(
        id=id,
        name=f"ours-{id[-4:]}",
        ty=ty or usual,
        memory_static_max=memory,
        memory_dynamic_max=memory,
        memory_dynamic_min=memory,
        # GRUB looks for keys without end, and would leave nothing to the tests.
        scheduler_params=SchedulerParams(priority=SchedulerPriority(cap=0 if kind == "linux" else 10)),
    )
    nic = Vif(
        id=DeviceId(vm=id, dev="0"), mac=f"00:16:3e:00:{id[-4:-2]}:{id[-2:]}", backend=Bridge(bridge=guests.BRIDGE)
    )
    return Machine(vm, 1, {Kind.VBD: {it.id.dev: Device(it) for it in drives}, Kind.VIF: {"0": Device(nic)}})


def drive(dev: str, position: str, path: str, *, id: str = VM, **settings: Any) -> Vbd:
    return Vbd(id=DeviceId(vm=id, dev=dev), position=position, backend=Local(path=path), **settings)


@dataclass
class Stage:
    """A stack that runs in a loop of its own, and stories told to it one after the other."""

    runner: asyncio.Runner
    lab: XenLab

    def tell(self, story: Awaitable[T], logs: Path, *, within_s: float = STORY_S) -> T:
        """What comes of a story; of one that ends badly the stack's log is put there."""

        async def bounded() -> T:
            async with asyncio.timeout(within_s):
                return await story

        try:
            return self.runner.run(bounded())
        except BaseException:
            (logs / "stack.log").write_text((self.lab.folder / "stack.log").read_text(errors="replace")[-100000:])
            self.runner.run(self.lab.tidy())
            raise


def stage(folder: Path, *, module: str = "xenopsd.main", further: tuple[str, ...] = ()) -> Iterator[Stage]:
    """For a fixture of a whole file."""

    @asynccontextmanager
    async def lab() -> Any:
        flags = (f"--xen-run-dir={folder / 'run'}", "--xen-helpers=1", "--xen-minimum-reboot-delay=0", *further)
        stack = MortalStack(
            folder / "var",
            log_to=folder / "stack.log",
            backend="xen",
            ready_s=180.0,
            log_level="debug",
            further=flags,
            module=module,
        )
        async with running(stack) as xenops:
            yield XenLab(stack, xenops, folder)

    with asyncio.Runner() as runner:
        context = lab()
        try:
            yield Stage(runner, runner.run(context.__aenter__()))
        finally:
            runner.run(context.__aexit__(None, None, None))
