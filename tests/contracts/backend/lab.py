# SPDX-License-Identifier: Apache-2.0
"""A hypervisor with an empty world, as the tests of the contract see it: the simulator, and what others inherit."""

import asyncio
import importlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import settings

from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.pci_address import PciAddress
from xenops.types.process import Ended, Program
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Vif
from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.port import Backend, Surroundings

PATIENCE_S = 60.0


async def no_programs(program: Program) -> Ended:
    """A backend that needs no program gets none."""
    raise AssertionError(f"{program.argv[0]} was to be run")


TYPES: dict[str, BuilderInfo] = {"hvm": Hvm(), "pv": Pv(boot=Direct(kernel="k")), "pvh": Pvh(boot=Direct(kernel="k"))}


@dataclass
class Lab:
    """One hypervisor with an empty world, for one test."""

    slack: ClassVar[int] = 0  # bytes of memory that may come and go unaccounted for
    overcommits: ClassVar[bool] = True  # a forced build succeeds however large the machine is
    kinds: ClassVar[tuple[str, ...]] = ("hvm", "pv", "pvh")
    answering_kinds: ClassVar[tuple[str, ...]] = ("hvm", "pv", "pvh")  # kinds of guests that can be had to answer
    pci_kind: ClassVar[str] = "hvm"  # the kind of guest that gets PCI functions
    # Four machines that come and go, not all of which fit at once, with their MiB; and how often that is tried.
    crowd: ClassVar[tuple[tuple[str, int], ...]] = (("hvm", 1000), ("pv", 1500), ("pvh", 700), ("pv", 3000))
    accounting: ClassVar[settings] = settings(max_examples=15, stateful_step_count=25, deadline=None)

    folder: Path
    changes: list[tuple[Kind, str]] = field(default_factory=list)
    made: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Backend]:
        """The backend as a daemon has it; opening it again is what a restart does."""
        package: Any = importlib.import_module("xenopsd.backends.simulator")
        backend: Backend = package.create(Surroundings(self.folder, {}, no_programs), package.Options(memory_mib=4096))
        await backend.start(self.note)
        try:
            yield backend
        finally:
            await backend.stop()

    def note(self, kind: Kind, id: str) -> None:
        """The backend told of a change."""
        self.changes.append((kind, id))
        self.changed.set()

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Look again at every change that the backend tells of, until it holds."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                self.changed.clear()
                if await holds():
                    return
                await self.changed.wait()

    def same_memory(self, one: int, other: int) -> bool:
        """Whether so much and so much free memory are the same."""
        return abs(one - other) <= self.slack

    def a_vm(
        self,
        kind: str,
        *,
        memory_mib: int = 64,
        disks: int = 1,
        nics: int = 1,
        answering: bool = False,
        drivers: bool = False,
    ) -> Metadata:
        """A machine of that kind that can boot here, answers if it has to, and uses its devices if it has to; two of
        them have nothing in common.
        """
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

    async def awake(self, machine: "Machine") -> None:
        """Return when the guest of a started machine can answer; here it can from the beginning."""

    def a_disk(self, vm: Vm, position: str) -> Vbd:
        """A disk whose bytes exist."""
        medium = self.a_medium(f"{vm.id}-{position}")
        return Vbd(id=DeviceId(vm=vm.id, dev=position), position=position, backend=medium)

    def a_function(self) -> PciAddress:
        """A PCI function that nobody uses."""
        return PciAddress(bus=3, dev=0, fn=0)

    def a_cd_drive(self, vm: Vm, position: str) -> Vbd:
        """A drive with a medium in it."""
        return Vbd(
            id=DeviceId(vm=vm.id, dev=position),
            position=position,
            mode=Mode.READ_ONLY,
            ty=VbdType.CDROM,
            backend=self.a_medium("cd"),
        )

    def a_medium(self, name: str) -> Local:
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
        await self.plug()
        await backend.vm.create_device_model(self.metadata, restoring=False)
        await backend.vm.set_action(vm, None)
        await backend.vm.unpause(vm)

    async def plug(self) -> None:
        """All its drives and interfaces."""
        for vbd in self.metadata.vbds:
            await self.backend.vbd.plug(self.vm, vbd)
        for vif in self.metadata.vifs:
            await self.backend.vif.plug(self.vm, vif)

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
