# SPDX-License-Identifier: Apache-2.0
"""A control domain for the tests of devices: guests that xl makes without any, and our own rooms that plug them."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.xen import guests
from tests.xen.acceptance import console, xl
from xenops.errors import DoesNotExist
from xenops.events import Kind
from xenops.types.process import Ended, Program
from xenops.types.vm import Direct, Pv, Vm
from xenopsd.backends.xen.domctl import DomainInfo, Domctl
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.vbd import XenVbd
from xenopsd.backends.xen.vif import XenVif
from xenopsd.backends.xen.xenstore.client import XenStore

_numbers = count(1)


async def run_program(program: Program) -> Ended:
    """As forkexecd would."""
    process = await asyncio.create_subprocess_exec(
        *program.argv,
        env=program.env,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), program.timeout_s)
    except TimeoutError:
        os.killpg(process.pid, 9)
        await process.wait()
        return Ended(signal=9, timed_out=True)
    return Ended(code=process.returncode or 0, stdout=out, stderr=err)


class NoEmulators:
    """No guest here has a device model."""

    async def change_medium(self, domid: int, devid: int, path: str | None) -> None:
        raise AssertionError("there is no device model")

    async def serves_disks(self, vm: Vm, domid: int) -> bool:
        return False

    async def disk_refused(self, domid: int, devid: int) -> str:
        raise AssertionError("no QEMU serves disks here")

    async def let_go_of_disks(self, domid: int) -> None:
        return

    async def attach_pci(self, domid: int, address: str) -> None:
        return

    async def detach_pci(self, domid: int, address: str) -> None:
        return


@dataclass
class Guests:
    """The domains that xl made for a test."""

    xc: Domctl
    domids: dict[str, int] = field(default_factory=dict)

    def domid(self, vm: str) -> int | None:
        return self.domids.get(vm)

    def require(self, vm: str) -> int:
        if vm not in self.domids:
            raise DoesNotExist("domain", vm)
        return self.domids[vm]

    def machine(self, domid: int) -> str | None:
        return next((vm for vm, known in self.domids.items() if known == domid), None)

    def items(self) -> list[tuple[str, int]]:
        return list(self.domids.items())

    async def info(self, vm: str) -> DomainInfo | None:
        info = await self.xc.get_info(self.domids[vm])
        return None if info is None or info.dying else info


@dataclass
class DeviceHost:
    """The world of the devices' rooms."""

    xs: XenStore
    xc: Domctl
    domains: Guests
    changes: list[tuple[Kind, str]] = field(default_factory=list)
    device_models: NoEmulators = field(default_factory=NoEmulators)
    options: XenOptions = field(default_factory=XenOptions)
    programs: dict[str, Path] = field(default_factory=lambda: {"qemu": Path("/usr/libexec/xen-qemu-system-i386")})
    state_dir: Path = Path("/tmp")
    run_program: Callable[[Program], object] = run_program
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def changed(self, kind: Kind, id: str) -> None:
        self.changes.append((kind, id))
        self.news.set()

    async def told(self, change: tuple[Kind, str]) -> None:
        """Wait until that has been told."""
        async with asyncio.timeout(60):
            while change not in self.changes:
                self.news.clear()
                await self.news.wait()


@dataclass
class Rooms:
    """All of it."""

    world: DeviceHost
    vbd: XenVbd
    vif: XenVif
    folder: Path

    def domid(self, vm: Vm) -> int:
        return self.world.domains.require(vm.id)

    @asynccontextmanager
    async def guest(self, kind: str = "grub", *, paused: bool = True, **settings: object) -> AsyncIterator[Vm]:
        """A domain of xl's that counts as ours. Whatever of its devices is left at the end is swept."""
        name, domains = f"devices-{os.getpid()}-{next(_numbers)}", self.world.domains
        what: dict[str, object] = {"kernel": str(guests.GRUB_PV), "memory": guests.GRUB_MEMORY_MIB}
        if kind == "linux":
            what = {"kernel": str(guests.LINUX_ELF), "memory": guests.LINUX_MEMORY_MIB}
            what |= {"ramdisk": str(guests.LINUX_INITRAMFS), "extra": guests.LINUX_CMDLINE}
        config = xl.config(self.folder, name, type="pv", **(what | settings))
        await asyncio.to_thread(xl.run, "create", *(["-p"] if paused else []), str(config))
        domid = domains.domids[name] = int(await asyncio.to_thread(xl.run, "domid", name))
        try:
            yield Vm(id=name, ty=Pv(boot=Direct(kernel=str(what["kernel"]))))
        finally:
            with suppress(DoesNotExist):  # it may have gone in the test
                await self.world.xc.destroy(domid)
            await self.vbd.sweep(domid)
            await self.vif.sweep(domid)
            await asyncio.to_thread(subprocess.run, ["xl", "destroy", str(domid)], capture_output=True)
            del domains.domids[name]
            handle = (await self.world.xs.read(f"/local/domain/{domid}/vm")) or ""
            for path in (f"/local/domain/{domid}", f"/xenopsd/domain/{domid}", f"/libxl/{domid}", handle):
                await self.world.xs.rm(path) if path else None
            for kind_of_node in ("console", "vbd", "vif"):
                await self.world.xs.rm(f"/local/domain/0/backend/{kind_of_node}/{domid}")
            await self.world.xs.rm(f"/xenopsd/domain/{domid}")


@asynccontextmanager
async def rooms(folder: Path) -> AsyncIterator[Rooms]:
    """A world, and its rooms at work."""
    xs, xc = await XenStore.connect(), Domctl()
    world = DeviceHost(xs, xc, Guests(xc))
    was_there = await xs.read("/xenopsd") is not None
    vbd, vif = XenVbd(world), XenVif(world)  # type: ignore[arg-type]
    following = asyncio.create_task(vbd.follow())
    try:
        yield Rooms(world, vbd, vif, folder)
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        if not was_there:
            await xs.rm("/xenopsd")
        await xs.close()
        await xc.close()


def story(folder: Path, told: Callable[[Rooms], Awaitable[None]]) -> None:
    async def run() -> None:
        async with rooms(folder) as at:
            await told(at)

    asyncio.run(run())


def tree(domid: int) -> dict[str, str]:
    """All that xenstore has of a domain's devices, permissions and all, with the domain's number taken out."""
    found: dict[str, str] = {}
    for line in xl.store("ls", "-fp").splitlines():
        path, _, rest = line.partition(" = ")
        if f"/{domid}/" in f"{path}/" and ("/vbd/" in path or "/vif/" in path) and not path.startswith("/xenopsd"):
            key = f"{path}/".replace(f"/{domid}/", "/N/")
            if key.endswith("/frontend-id/"):
                rest = rest.replace(f'"{domid}"', '"N"')
            found[key] = rest.replace(f"/{domid}/", "/N/").replace(f"{domid})", "N)").replace(f"(n{domid},", "(nN,")
    return found


def output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=60).stdout


def is_up(guest: console.Console) -> None:
    guest.wait(guests.LINUX_UP)
    guest.wait("\n")


def gone(path: str) -> str:
    """For a guest: true as soon as there is no such file, which takes it a moment."""
    return f"for n in $(seq 50); do test -e {path} || break; sleep 1; done; test ! -e {path}"
