# SPDX-License-Identifier: Apache-2.0
"""What all rooms of this backend share: the hypervisor, xenstore, the builders, and which domains are ours."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from xenops.errors import NotEnoughMemory
from xenops.types.vm import Vm
from xenopsd.backends.port import Changed, RunProgram
from xenopsd.backends.xen.builder.spares import Builders
from xenopsd.backends.xen.devicemodel.qemu import DeviceModels
from xenopsd.backends.xen.domain.domains import Domains
from xenopsd.backends.xen.domain.shelf import Clocks
from xenopsd.backends.xen.domain.trees import Trees
from xenopsd.backends.xen.domctl import Domctl, PhysInfo
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.xenstore.client import XenStore


@dataclass
class Ledger:
    """Memory that is promised to guests that are being built: what is free is less than it looks."""

    xc: Domctl
    promises: dict[int, int] = field(default_factory=dict)  # KiB, by domain

    async def free_kib(self) -> int:
        """What may be promised. A guest that is being filled has part of its promise already, and Xen counts that."""
        infos = [await self.xc.get_info(domid) for domid in list(self.promises)]
        has = {info.domid: info.memory_kib for info in infos if info is not None}
        free_kib = await free_memory(self.xc)
        return free_kib - sum(max(0, promised - has.get(domid, 0)) for domid, promised in self.promises.items())

    @asynccontextmanager
    async def reserved(self, domid: int, needed_kib: int, *, force: bool) -> AsyncIterator[None]:
        """Set so much aside meanwhile. Raises `NotEnoughMemory`, with both numbers, unless `force`."""
        free_kib = await self.free_kib()
        if needed_kib > free_kib and not force:
            raise NotEnoughMemory(needed_kib << 10, max(0, free_kib) << 10)
        self.promises[domid] = needed_kib
        try:
            yield
        finally:
            del self.promises[domid]


async def free_memory(xc: Domctl) -> int:
    """KiB that a guest can have: what is free, and what is only being cleaned."""
    host = await xc.physinfo()
    return host.free_memory_kib + host.scrub_memory_kib - host.claimed_memory_kib


class Sweeps(Protocol):
    """A kind of device, when a domain goes, or its guest to another one."""

    async def bound(self, domid: int) -> list[str]:
        """What a domain has of that kind with which its guest cannot go to another domain: each in words, with the reason."""

    async def drain(self, domid: int) -> None:
        """Its guest is suspended: wait until nothing of that kind is at work for it any more. Raises `StepTimedOut`."""

    async def sweep(self, domid: int) -> None:
        """Take away all devices of that kind that a domain has or had. Idempotent."""


@dataclass
class World:
    """The real world of one host."""

    xs: XenStore
    xc: Domctl
    host: PhysInfo  # as it was at the start: what Xen and its processors can do does not change, its memory does
    builders: Builders
    domains: Domains
    trees: Trees
    ledger: Ledger
    run_program: RunProgram
    programs: Mapping[str, Path]
    options: XenOptions
    state_dir: Path
    clocks: Clocks
    changed: Changed
    device_models: DeviceModels = field(init=False)
    devices: list[Sweeps] = field(default_factory=list)

    def touched(self, vm: Vm) -> None:
        """We changed something that its state is made of."""
        domid = self.domains.domid(vm.id)
        if domid is not None:
            self.trees.touch(domid)
