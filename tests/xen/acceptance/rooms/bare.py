# SPDX-License-Identifier: Apache-2.0
"""Domains made with nothing but hypercalls, a builder and the least of a xenstore tree: for tests of those alone."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from xenopsd.backends.xen.builder.orders import Build, Built, GuestKind, Restored
from xenopsd.backends.xen.builder.spares import Builders
from xenopsd.backends.xen.domctl import EMULATE_ALL, EMULATE_LAPIC, EMULATE_NOTHING, CreateDomain, Domctl
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, Write
from xenopsd.backends.xen.xenstore.client import XenStore

FIRMWARE = "/usr/share/seabios/bios-256k.bin"
HVMLOADER = "/usr/lib/xen-4.17/boot/hvmloader"
_EMULATED = {GuestKind.PV: EMULATE_NOTHING, GuestKind.PVH: EMULATE_LAPIC, GuestKind.HVM: EMULATE_ALL}


@dataclass(frozen=True)
class Empty:
    """A created domain, ready to be filled."""

    domid: int
    kind: GuestKind
    memory_mib: int
    vcpus: int
    store_port: int
    console_port: int

    def order(self, kernel: Path | str, ramdisk: Path | None = None, cmdline: str = "") -> Build:
        """What fills it."""
        return Build(
            domid=self.domid,
            kind=self.kind,
            kernel=str(kernel),
            ramdisk=None if ramdisk is None else str(ramdisk),
            cmdline=cmdline,
            memory_max_mib=self.memory_mib,
            memory_target_mib=self.memory_mib,
            vcpus=self.vcpus,
            store_port=self.store_port,
            console_port=self.console_port,
            firmware=FIRMWARE if self.kind is GuestKind.HVM else None,
        )


class Bench:
    """The hypervisor, xenstore and some builders."""

    def __init__(self, xc: Domctl, xs: XenStore, builders: Builders) -> None:
        self.xc, self.xs, self.builders = xc, xs, builders

    @classmethod
    @asynccontextmanager
    async def opened(cls, folder: Path, helpers: int = 1) -> AsyncIterator["Bench"]:
        """All of it, for as long as the block lasts."""
        xc, xs = Domctl(), await XenStore.connect()
        builders = Builders(helpers, folder / "logs", folder / "kernels")
        await builders.start()
        try:
            yield cls(xc, xs, builders)
        finally:
            await builders.stop()
            await xs.close()
            await xc.close()

    @asynccontextmanager
    async def empty(self, kind: GuestKind, memory_mib: int, vcpus: int = 1) -> AsyncIterator[Empty]:
        """A created domain; destroyed at the end, with its tree."""
        translated = kind is not GuestKind.PV
        domid = await self.xc.create_domain(
            CreateDomain(
                handle=uuid.uuid4(),
                max_vcpus=vcpus,
                hvm=translated,
                hap=translated,
                oos_off=translated,
                emulation_flags=_EMULATED[kind],
                max_evtchn_port=1023,
            )
        )
        try:
            yield await self._prepared(domid, kind, memory_mib, vcpus)
        finally:
            await self.xc.destroy(domid)
            await self.xs.commit([Remove(f"/local/domain/{domid}")])

    async def _prepared(self, domid: int, kind: GuestKind, memory_mib: int, vcpus: int) -> Empty:
        xc = self.xc
        await xc.set_max_vcpus(domid, vcpus)
        roms_mib = 17 if kind is GuestKind.HVM else 1
        await xc.set_max_mem(domid, (memory_mib + roms_mib) << 10)
        await xc.set_tsc_mode(domid)
        await xc.apply_cpu_policy(domid)
        if kind is not GuestKind.PV:
            await xc.set_shadow_allocation(domid, memory_mib * 8 // 1024 + vcpus + 1)
        store_port, console_port = await xc.alloc_unbound(domid), await xc.alloc_unbound(domid)
        return Empty(domid, kind, memory_mib, vcpus, store_port, console_port)

    async def introduce(self, domain: Empty, built: Built | Restored) -> None:
        """The least of a tree with which a guest boots and has a console."""
        top, guest_owns = f"/local/domain/{domain.domid}", (f"n{domain.domid}",)
        changes: list[Change] = [Mkdir(top, ("n0", f"r{domain.domid}"))]
        changes += [Mkdir(f"{top}/{each}") for each in ("cpu", "memory", "device")]
        changes += [Write(f"{top}/{each}", "", guest_owns) for each in ("control/shutdown", "data", "drivers", "attr")]
        values = {
            "name": f"bare-{domain.domid}",
            "domid": str(domain.domid),
            "memory/target": str(domain.memory_mib << 10),
            "memory/static-max": str(domain.memory_mib << 10),
            "store/port": str(domain.store_port),
            "store/ring-ref": str(built.store_mfn),
            "console/type": "xenconsoled",
            "console/output": "pty",
            "console/limit": "1048576",
            "console/port": str(domain.console_port),
            "console/ring-ref": str(built.console_mfn),
            "hvmloader/bios": "seabios",
            **{f"cpu/{n}/availability": "online" for n in range(domain.vcpus)},
        }
        changes += [Write(f"{top}/{path}", value) for path, value in values.items()]
        await self.xs.commit(changes)
        await self.xs.introduce(domain.domid, built.store_mfn, domain.store_port)

    async def start(self, domain: Empty, order: Build) -> None:
        """Fill it, introduce it, let it run."""
        async with self.builders.take() as builder:
            await self.introduce(domain, await builder.build(order))
        await self.xc.unpause(domain.domid)
