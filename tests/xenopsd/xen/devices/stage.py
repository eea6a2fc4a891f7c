# SPDX-License-Identifier: Apache-2.0
"""A host without Xen for the devices' rooms: a real xenstored, and a kernel and a guest that are played on it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from uuid import UUID

from xenops.errors import DoesNotExist
from xenops.events import Kind
from xenops.types.process import Ended, Program
from xenops.types.vm import Direct, Hvm, Pv, Vm
from xenopsd.backends.xen.devices import xenbus
from xenopsd.backends.xen.devices.xenbus import State
from xenopsd.backends.xen.domctl import DomainInfo, Shutdown
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.xenstore.changes import Mkdir, Remove, Write
from xenopsd.backends.xen.xenstore.client import XenStore

TOP = "/local/domain/0/backend"
_domids = count(100)


class Guests:
    """The domains of a stage."""

    def __init__(self) -> None:
        self.domids: dict[str, int] = {}
        self.gone: set[int] = set()
        self.paused: set[int] = set()
        self.asleep: set[int] = set()

    def domid(self, vm: str) -> int | None:
        return self.domids.get(vm)

    def require(self, vm: str) -> int:
        if vm not in self.domids or self.domids[vm] in self.gone:
            raise DoesNotExist("domain", vm)
        return self.domids[vm]

    def machine(self, domid: int) -> str | None:
        return next((vm for vm, known in self.domids.items() if known == domid), None)

    async def info(self, vm: str) -> DomainInfo | None:
        domid = self.domids.get(vm)
        if domid is None or domid in self.gone:
            return None
        flags = {
            "dying": False,
            "shutdown": domid in self.asleep,
            "blocked": True,
            "running": False,
            "hvm": False,
            "hap": False,
        }
        numbers = dict.fromkeys(("shutdown_reason", "memory_kib", "max_memory_kib", "vcpus_online", "max_vcpu_id"), 0)
        numbers["shutdown_reason"] = int(Shutdown.SUSPEND)  # of those that have shut down
        rest = dict.fromkeys(("cpu_time_ns", "ssidref", "emulation_flags"), 0)
        return DomainInfo(domid=domid, handle=UUID(int=domid), paused=domid in self.paused, **flags, **numbers, **rest)


class Emulators:
    """Device models that note what they are asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[object, ...]] = []

    async def change_medium(self, domid: int, devid: int, path: str | None) -> None:
        self.asked.append(("medium", domid, devid, path))

    async def serves_disks(self, vm: Vm, domid: int) -> bool:
        return False

    async def disk_refused(self, domid: int, devid: int) -> str:
        raise AssertionError("no QEMU serves disks here")

    async def let_go_of_disks(self, domid: int) -> None:
        self.asked.append(("let go", domid))

    async def attach_pci(self, domid: int, address: str) -> None:
        self.asked.append(("attach", domid, address))

    async def detach_pci(self, domid: int, address: str) -> None:
        self.asked.append(("detach", domid, address))


@dataclass
class Stage:
    """The world, as far as devices concern it."""

    xs: XenStore
    folder: Path
    domains: Guests = field(default_factory=Guests)
    device_models: Emulators = field(default_factory=Emulators)
    options: XenOptions = field(default_factory=XenOptions)
    programs: list[Program] = field(default_factory=list)
    on_program: Callable[[Program], Ended] = lambda _: Ended(code=0)
    changes: list[tuple[Kind, str]] = field(default_factory=list)
    changed_again: asyncio.Event = field(default_factory=asyncio.Event)
    xc: object = None

    @property
    def sysfs(self) -> Path:
        return self.folder / "sys"

    @property
    def state_dir(self) -> Path:
        return self.folder

    async def run_program(self, program: Program) -> Ended:
        self.programs.append(program)
        return self.on_program(program)

    def changed(self, kind: Kind, id: str) -> None:
        self.changes.append((kind, id))
        self.changed_again.set()

    async def guest(self, name: str, *, hvm: bool = False, paused: bool = False) -> Vm:
        """A domain with an empty tree."""
        domid = self.domains.domids[name] = next(_domids)
        if paused:
            self.domains.paused.add(domid)
        top, reads = f"/local/domain/{domid}", ("n0", f"r{domid}")
        await self.xs.commit([Mkdir(top, reads), Mkdir(f"{top}/device", reads), Mkdir(f"{top}/error", (f"n{domid}",))])
        return Vm(id=name, ty=Hvm() if hvm else Pv(boot=Direct(kernel="k")))

    async def tree(self, domid: int) -> dict[str, str]:
        """All that is written of a domain's devices anywhere."""
        found: dict[str, str] = {}
        for top in (
            TOP,
            "/local/domain/0/error",
            f"/local/domain/{domid}",
            f"/libxl/{domid}",
            f"/xenopsd/domain/{domid}",
        ):
            found |= await self.xs.tree(top)
        mine = {path: value for path, value in found.items() if f"/{domid}/" in path}
        return {path: value for path, value in mine.items() if "/vbd/" in path or "/vif/" in path or "/qdisk/" in path}


@dataclass
class Actors:
    """The kernel's back ends, and the guests' front ends."""

    stage: Stage
    has_driver: bool = True
    refuses: str = ""  # what a guest says when it is asked to let go
    deaf: bool = False
    broken: str = ""  # what a back end's kernel says when it cannot open its device

    @asynccontextmanager
    async def playing(self) -> AsyncIterator["Actors"]:
        task = asyncio.create_task(self._play())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _play(self) -> None:
        async with self.stage.xs.watch("/local/domain") as events:
            async for path in events:
                parts = path.split("/")
                if parts[-1] == "state" and "backend" in parts:
                    await self._act(*parts[-4:-1])
                elif parts[-1] == "state" and "device" in parts:
                    await self._act(parts[-3], parts[3], parts[-2])

    async def _act(self, kind: str, domid: str, devid: str) -> None:
        back, front = f"{TOP}/{kind}/{domid}/{devid}", f"/local/domain/{domid}/device/{kind}/{devid}"
        state, online, other = await self.stage.xs.read_many([f"{back}/state", f"{back}/online", f"{front}/state"])
        await self._back_end(kind, domid, devid, xenbus.parse(state), online == "1", xenbus.parse(other))
        if self.has_driver and int(domid) not in self.stage.domains.paused | self.stage.domains.gone:
            await self._front_end(front, back, domid, f"device/{kind}/{devid}")

    async def _back_end(self, kind: str, domid: str, devid: str, back: State, online: bool, front: State) -> None:
        top = f"{TOP}/{kind}/{domid}/{devid}"
        sysfs = self.stage.sysfs / f"bus/xen-backend/devices/{kind}-{domid}-{devid}"
        if back is State.INITIALISING and self.broken:
            error = f"/local/domain/0/error/backend/{kind}/{domid}/{devid}/error"
            await self.stage.xs.commit([Write(error, self.broken), Write(f"{top}/state", "5")])
        elif back is State.INITIALISING:
            await self.stage.xs.write(f"{top}/state", "2")
            sysfs.mkdir(parents=True, exist_ok=True)
            (sysfs / "physical_device").write_text("7:9")
        elif back is State.INIT_WAIT and front is State.CONNECTED:
            await self.stage.xs.write(f"{top}/state", "4")
        elif back not in (State.UNKNOWN, State.CLOSED) and front in (State.CLOSED, State.UNKNOWN) and not online:
            await self.stage.xs.write(f"{top}/state", "6")

    async def _front_end(self, front: str, back: str, domid: str, name: str) -> None:
        mine, other = (
            xenbus.parse(value) for value in await self.stage.xs.read_many([f"{front}/state", f"{back}/state"])
        )
        if mine is State.INITIALISING and other is State.INIT_WAIT:
            await self.stage.xs.write(f"{front}/state", "4")
        elif mine is State.CONNECTED and other is State.CLOSING and self.refuses:
            await self.stage.xs.write(f"/local/domain/{domid}/error/{name}/error", self.refuses)
        elif mine is State.CONNECTED and other is State.CLOSING and not self.deaf:
            await self.stage.xs.write(f"{front}/state", "6")


async def destroyed(stage: Stage, vm: Vm) -> None:
    """The hypervisor has no such domain any more, and xenstored has removed what it owned without a word."""
    domid = stage.domains.require(vm.id)
    stage.domains.gone.add(domid)
    await stage.xs.commit([Remove(f"/local/domain/{domid}/device/vbd"), Remove(f"/local/domain/{domid}/device/vif")])
