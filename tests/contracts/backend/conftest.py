# SPDX-License-Identifier: Apache-2.0
"""The hypervisors of the backend contract: what they have in common, and how a test gets at one.

A backend that needs more than a folder (a real Xen, say) adds a row to `LABS`, with its own way to open a backend,
to make machines that can really boot, and to look at what is left over.
"""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from xenops.events import Kind
from xenops.types.disk import Disk, Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.process import Ended, Program
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Vif
from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.port import Backend, Surroundings


async def no_programs(program: Program) -> Ended:
    """A backend that needs no program gets none."""
    raise AssertionError(f"{program.argv[0]} was to be run")


TYPES: dict[str, BuilderInfo] = {"hvm": Hvm(), "pv": Pv(boot=Direct(kernel="k")), "pvh": Pvh(boot=Direct(kernel="k"))}


@dataclass
class Lab:
    """One hypervisor with an empty world, for one test."""

    folder: Path
    changes: list[tuple[Kind, str]] = field(default_factory=list)
    made: int = 0

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Backend]:
        """The backend as a daemon has it; opening it again is what a restart does."""
        package: Any = importlib.import_module("xenopsd.backends.simulator")
        backend: Backend = package.create(Surroundings(self.folder, {}, no_programs), package.Options(memory_mib=4096))
        await backend.start(lambda kind, id: self.changes.append((kind, id)))
        try:
            yield backend
        finally:
            await backend.stop()

    def a_vm(self, kind: str, *, memory_mib: int = 64, disks: int = 1, nics: int = 1) -> Metadata:
        """A machine of that kind that can boot here; what is made twice has nothing in common."""
        self.made += 1
        vm = Vm(
            id=f"contract-{kind}-{self.made}",
            name=f"contract {self.made}",
            ty=TYPES[kind],
            memory_static_max=memory_mib * MIB,
            memory_dynamic_max=memory_mib * MIB,
            memory_dynamic_min=memory_mib * MIB,
            vcpus=2,
            vcpu_max=2,
        )
        return Metadata(
            vm=vm,
            vbds=[self.a_disk(vm, f"xvd{'abcdefgh'[n]}") for n in range(disks)],
            vifs=[
                Vif(id=DeviceId(vm=vm.id, dev=str(n)), position=n, mac=f"00:16:3e:00:00:{n:02x}") for n in range(nics)
            ],
        )

    def a_disk(self, vm: Vm, position: str) -> Vbd:
        """A disk whose bytes exist."""
        return Vbd(id=DeviceId(vm=vm.id, dev=position), position=position, backend=self.a_medium(position))

    def a_cd_drive(self, vm: Vm, position: str) -> Vbd:
        """A drive with a medium in it."""
        return Vbd(
            id=DeviceId(vm=vm.id, dev=position),
            position=position,
            mode=Mode.READ_ONLY,
            ty=VbdType.CDROM,
            backend=self.a_medium("cd"),
        )

    def a_medium(self, name: str) -> Disk:
        """A file of a megabyte."""
        path = self.folder / f"{name}.img"
        if not path.exists():
            path.write_bytes(bytes(MIB))
        return Local(path=str(path))


class Machine:
    """A machine under test, and the few things that every test does to it."""

    def __init__(self, backend: Backend, metadata: Metadata) -> None:
        self.backend, self.metadata, self.vm = backend, metadata, metadata.vm

    async def start(self) -> None:
        """Everything that a start does, in its order."""
        backend, vm = self.backend, self.vm
        await backend.vm.create(self.metadata)
        await backend.vm.build(self.metadata, force=False)
        for vbd in self.metadata.vbds:
            await backend.vbd.plug(vm, vbd)
        for vif in self.metadata.vifs:
            await backend.vif.plug(vm, vif)
        await backend.vm.create_device_model(self.metadata, restoring=False)
        await backend.vm.set_action(vm, None)
        await backend.vm.unpause(vm)

    async def stop(self) -> None:
        """Everything that a forced shutdown does."""
        await self.backend.vm.destroy_device_model(self.vm)
        for vbd in self.metadata.vbds:
            await self.backend.vbd.unplug(self.vm, vbd, force=True)
        for vif in self.metadata.vifs:
            await self.backend.vif.unplug(self.vm, vif, force=True)
        await self.backend.vm.destroy(self.vm)

    async def state(self) -> Any:
        """What the hypervisor says of it."""
        return (await self.backend.vm.states([self.vm]))[0]


LABS = {"simulator": Lab}


@pytest.fixture(params=sorted(LABS))
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """Each hypervisor in turn."""
    return LABS[request.param](tmp_path)


@pytest.fixture(params=["hvm", "pv", "pvh"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of guest in turn."""
    return str(request.param)


Story = Callable[[Backend, Machine], Awaitable[None]]


@pytest.fixture
def tell(lab: Lab) -> Callable[..., None]:
    """Run a story about one machine; afterwards nothing of the machine may be left."""

    def told(kind: str, story: Story, *, started: bool = True, **wishes: Any) -> None:
        async def run() -> None:
            async with lab.open() as backend:
                before = (await backend.host.stat()).memory_free
                machine = Machine(backend, lab.a_vm(kind, **wishes))
                if started:
                    await machine.start()
                await story(backend, machine)
                await machine.stop()
                await backend.vm.forget(machine.vm)
                assert (await backend.host.stat()).memory_free == before, "memory was left over"
                assert (await machine.state()).domids == []

        asyncio.run(run())

    return told
