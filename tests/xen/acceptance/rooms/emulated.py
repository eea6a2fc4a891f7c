# SPDX-License-Identifier: Apache-2.0
"""HVM guests that want nothing but a device model, and as much of a world around them as device models see."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from prometheus_client import CollectorRegistry

from forkexecd.metrics import Metrics
from forkexecd.posix import Guard
from forkexecd.runner import Runner
from tests.xen import guests
from tests.xen.acceptance.rooms.bare import Bench, Empty
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.process import Ended, Program
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Vif
from xenops.types.vm import MIB, Hvm, Vm
from xenopsd.backends.xen.builder.orders import GuestKind
from xenopsd.backends.xen.devicemodel.qemu import DeviceModels
from xenopsd.backends.xen.domctl import DomainInfo, Domctl
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.xenstore.changes import Remove, Write
from xenopsd.backends.xen.xenstore.client import XenStore

QEMU = Path("/usr/libexec/xen-qemu-system-i386")
VM = str(uuid.uuid4())


class Guests:
    """One machine, perhaps."""

    def __init__(self) -> None:
        self.domid: int | None = None

    def machine(self, domid: int) -> str | None:
        return VM if domid == self.domid else None

    def items(self) -> list[tuple[str, int]]:
        return [] if self.domid is None else [(VM, self.domid)]

    async def wait(self, vm: str, until: Callable[[DomainInfo | None], bool], timeout_s: float) -> bool:
        return True  # nobody else takes it away


@dataclass
class Host:
    """As much of a world as device models see."""

    xs: XenStore
    xc: Domctl
    options: XenOptions
    runner: Runner
    domains: Guests = field(default_factory=Guests)
    programs: dict[str, Path] = field(default_factory=lambda: {"qemu": QEMU})
    told: asyncio.Event = field(default_factory=asyncio.Event)

    async def run_program(self, program: Program) -> Ended:
        return await self.runner.run(program)

    def changed(self, kind: Kind, id: str) -> None:
        assert (kind, id) == (Kind.VM, VM)
        self.told.set()


@asynccontextmanager
async def host(folder: Path) -> AsyncIterator[tuple[Bench, Host]]:
    """The bench, and what runs programs as forkexecd does."""
    guard = Guard()
    runner = Runner(guard, Metrics(CollectorRegistry()))
    async with Bench.opened(folder) as bench:
        world = Host(bench.xs, bench.xc, XenOptions(run_dir=folder / "run"), runner)
        try:
            yield bench, world
        finally:
            await bench.xs.commit([Remove("/xenopsd/domain"), Remove("/xenopsd")])
            await runner.close()
            guard.close()


@asynccontextmanager
async def ours(bench: Bench, world: Host, domid: int) -> AsyncIterator[None]:
    """A domain of our machine; no device model of it is left."""
    world.domains.domid = domid
    try:
        yield
    finally:
        world.domains.domid = None
        last = DeviceModels(world)
        await last.stop(domid)
        await last.close()
        await bench.xs.commit([Remove(f"/libxl/{domid}")])


@asynccontextmanager
async def built(bench: Bench, world: Host) -> AsyncIterator[Empty]:
    """An HVM guest that only wants its device model."""
    async with bench.empty(GuestKind.HVM, guests.HVM_MEMORY_MIB) as domain:
        top = f"/local/domain/{domain.domid}"
        async with bench.builders.take() as builder:
            await bench.introduce(domain, await builder.build(domain.order("/usr/lib/xen-4.17/boot/hvmloader")))
        loader = {"hvmloader/bios": "seabios", "hvmloader/allow-memory-relocate": "0", "platform/acpi": "1"}
        await bench.xs.commit([Write(f"{top}/{key}", value) for key, value in loader.items()])
        async with ours(bench, world, domain.domid):
            yield domain


def machine(*vbds: Vbd, vifs: list[Vif] | None = None, **hvm: object) -> Metadata:
    """A machine with the disk that says that it is up."""
    disk = Vbd(id=DeviceId(vm=VM, dev="disk"), position="hda", backend=Local(path=str(guests.HVM_DISK)))
    ty = Hvm(boot_order="c", **hvm)  # type: ignore[arg-type]
    vm = Vm(id=VM, name="emulated, guest", ty=ty, memory_static_max=guests.HVM_MEMORY_MIB * MIB)
    return Metadata(vm=vm, vbds=[disk, *vbds], vifs=vifs or [])


def cd(path: Path | None = None) -> Vbd:
    backend = {"backend": Local(path=str(path))} if path else {}
    return Vbd(id=DeviceId(vm=VM, dev="cd"), position="hdc", ty=VbdType.CDROM, mode=Mode.READ_ONLY, **backend)
