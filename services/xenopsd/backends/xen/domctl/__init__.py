# SPDX-License-Identifier: Apache-2.0
"""The short hypercalls as coroutines: typed, with units in their names, and off the event loop.

A hypercall once issued is waited for, even by who is cancelled: afterwards the thing is done or not done. One that does not
come back is given up after a while, and only who asked hears of it. What takes seconds (building, saving, dumping)
belongs to the builders, not here.
"""

import asyncio
import logging
import uuid
from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

from xenops.errors import StepTimedOut
from xenopsd.backends.xen.domctl import domain, host
from xenopsd.backends.xen.domctl.facts import (
    EMULATE_ALL,
    EMULATE_LAPIC,
    EMULATE_NOTHING,
    Affinity,
    Cpu,
    CreateDomain,
    DomainInfo,
    Featureset,
    HvmParam,
    NumaNode,
    Outfit,
    PhysInfo,
    Scheduling,
    Shutdown,
    Trigger,
    VcpuInfo,
    Version,
)
from xenopsd.backends.xen.domctl.threads import Errand, Threads
from xenopsd.backends.xen.libxc import Xc

__all__ = [
    "EMULATE_ALL",
    "EMULATE_LAPIC",
    "EMULATE_NOTHING",
    "Affinity",
    "Cpu",
    "CreateDomain",
    "DomainInfo",
    "Domctl",
    "Featureset",
    "HvmParam",
    "NumaNode",
    "Outfit",
    "PhysInfo",
    "Scheduling",
    "Shutdown",
    "Trigger",
    "VcpuInfo",
    "Version",
]

R = TypeVar("R")
log = logging.getLogger(__name__)

CALL_S = 60.0  # nothing that works takes a tenth of it
DESTROY_S = 600.0  # gives back the memory of a large guest page by page


class Domctl:
    """The hypervisor, one coroutine a hypercall. All raise `HypercallFailed`; for a domid that is not, `DoesNotExist`."""

    def __init__(self, threads: int = 2) -> None:
        self._threads = Threads(threads)

    async def close(self) -> None:
        """Close every handle. Idempotent."""
        await asyncio.shield(asyncio.to_thread(self._threads.close))

    async def run(
        self,
        work: Callable[[Xc], R],
        *,
        within_s: float = CALL_S,
        put_back: Callable[[Xc, R], object] | None = None,
    ) -> R:
        """Several hypercalls in a row with one change of threads. Keep it short.

        Raises `StepTimedOut` when it does not come back; should it do so later, `put_back` undoes it in its thread.
        """
        errand = self._threads.submit(work, put_back)
        timer = asyncio.get_running_loop().call_later(within_s, errand.stir)
        try:
            await errand.stirred()
            if not errand.settled and (late := self._give_up(errand, within_s)) is not None:
                raise late
        except asyncio.CancelledError:
            await errand.stirred()
            if not errand.settled:
                self._give_up(errand, within_s)
            raise
        finally:
            timer.cancel()
        await errand.stirred()
        return errand.result()

    def _give_up(self, errand: Errand[R], within_s: float) -> StepTimedOut | None:
        """None when it came back at the last moment."""
        late = StepTimedOut(errand.doing, within_s)
        if not errand.give_up():
            return None
        if errand.begun:
            log.critical("%s: its thread is lost until the hypervisor answers", late)
            self._threads.stuck()
        return late

    # --- the host

    async def version(self) -> Version:
        """Which Xen this is."""
        return await self.run(host.version)

    async def physinfo(self) -> PhysInfo:
        """Processors and memory."""
        return await self.run(host.physinfo)

    async def cpus(self) -> list[Cpu]:
        """Where each processor sits."""
        return await self.run(host.cpus)

    async def numa_nodes(self) -> list[NumaNode]:
        """The memory of each node."""
        return await self.run(host.numa_nodes)

    async def scheduler_id(self) -> int:
        """Which scheduler runs: 5 credit, 6 credit2."""
        return await self.run(host.scheduler_id)

    async def console_ring(self, *, clear: bool = False) -> str:
        """The hypervisor's messages."""
        return await self.run(lambda xc: host.console_ring(xc, clear))

    async def send_debug_keys(self, keys: str) -> None:
        """Press debug keys."""
        await self.run(lambda xc: host.send_debug_keys(xc, keys))

    async def featureset(self, which: Featureset) -> tuple[int, ...]:
        """The processor features that such a guest can have, as 32-bit words."""
        return await self.run(lambda xc: host.featureset(xc, which))

    # --- all domains

    async def list_info(self, first: int = 0) -> list[DomainInfo]:
        """Every domain with a domid from `first`."""
        return await self.run(lambda xc: domain.list_info(xc, first))

    async def get_info(self, domid: int) -> DomainInfo | None:
        """The domain, if there is one of that domid."""
        return await self.run(lambda xc: domain.get_info(xc, domid))

    # --- a domain's life

    async def create_domain(self, wanted: CreateDomain, domid: int = 0) -> int:
        """Make an empty, paused domain; its domid (any that is free, for 0)."""
        return await self.run(
            lambda xc: domain.create(xc, wanted, domid),
            put_back=lambda xc, late: xc.on_domain(late, "xc_domain_destroy"),  # nobody else would ever find it
        )

    async def outfit(self, domid: int, given: Outfit) -> tuple[int, int]:
        """Give an empty domain all that it needs before its memory is filled; the ports of its store and its console."""
        return await self.run(lambda xc: domain.outfit(xc, domid, given))

    async def destroy(self, domid: int) -> None:
        """Destroy it; memory that others have mapped stays until they let go."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_destroy"), within_s=DESTROY_S)

    async def pause(self, domid: int) -> None:
        """Stop scheduling; pauses are counted."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_pause"))

    async def unpause(self, domid: int) -> None:
        """Take one pause back; on a running domain it does nothing."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_unpause"))

    async def let_run(self, domid: int) -> None:
        """Take back all pauses, whoever's they are."""
        await self.run(lambda xc: domain.let_run(xc, domid))

    async def shutdown(self, domid: int, reason: Shutdown) -> None:
        """Shut it down at once, without asking the guest."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_shutdown", int(reason)))

    async def resume(self, domid: int, *, fast: bool) -> None:
        """Wake a domain that has shut down for suspend; `fast` when its guest can go on where it was."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_resume", int(fast)))

    async def soft_reset(self, domid: int) -> None:
        """Reset grants, event channels and the like of a domain that has shut down for it."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_soft_reset"))

    async def set_handle(self, domid: int, handle: uuid.UUID) -> None:
        """Change by what the domain is recognised."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_sethandle", handle.bytes))

    async def send_trigger(self, domid: int, trigger: Trigger, vcpu: int = 0) -> None:
        """Press the ACPI power or sleep button, or interrupt a vCPU."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_send_trigger", int(trigger), vcpu))

    # --- its vCPUs

    async def set_max_vcpus(self, domid: int, vcpus: int) -> None:
        """Make its vCPUs; once only."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_max_vcpus", vcpus))

    async def vcpu_info(self, domid: int, vcpu: int) -> VcpuInfo:
        """What one vCPU does."""
        return await self.run(lambda xc: domain.vcpu_info(xc, domid, vcpu))

    async def set_affinity(self, domid: int, vcpu: int, kind: Affinity, cpus: Collection[int]) -> None:
        """Where the vCPU may (hard) or should (soft) run."""
        await self.run(lambda xc: domain.set_affinity(xc, domid, vcpu, kind, cpus))

    async def get_affinity(self, domid: int, vcpu: int, kind: Affinity) -> list[int]:
        """Where the vCPU may or should run."""
        return await self.run(lambda xc: domain.get_affinity(xc, domid, vcpu, kind))

    async def set_node_affinity(self, domid: int, nodes: Collection[int]) -> None:
        """Which nodes its memory should come from."""
        await self.run(lambda xc: domain.set_node_affinity(xc, domid, nodes))

    async def set_scheduling(self, domid: int, scheduling: Scheduling) -> None:
        """Set weight and cap, of whichever credit scheduler runs; a weight of 0 leaves it as it is."""
        await self.run(lambda xc: domain.set_scheduling(xc, domid, scheduling))

    async def get_scheduling(self, domid: int) -> Scheduling:
        """Its weight and cap."""
        return await self.run(lambda xc: domain.get_scheduling(xc, domid))

    async def set_tsc_mode(self, domid: int, mode: int = 0) -> None:
        """How the guest's time stamp counter works: 0 default, 1 emulate, 2 native."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_set_tsc_info", mode, 0, 0, 0))

    async def apply_cpu_policy(
        self,
        domid: int,
        features: Sequence[int] | None = None,
        *,
        restore: bool = False,
        pae: bool = True,
        itsc: bool = False,
        nested: bool = False,
    ) -> None:
        """Say which processor the guest sees: the default for its kind, or that with exactly these features."""
        await self.run(
            lambda xc: domain.apply_cpu_policy(xc, domid, features, restore=restore, pae=pae, itsc=itsc, nested=nested)
        )

    # --- its memory

    async def set_max_mem(self, domid: int, kib: int) -> None:
        """How much memory it may have; what it has beyond stays."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_setmaxmem", kib))

    async def forget_writes(self, domid: int) -> None:
        """Xen keeps no account any more of the pages that a PVH or HVM guest writes to. Idempotent."""
        await self.run(lambda xc: domain.forget_writes(xc, domid))

    async def set_shadow_allocation(self, domid: int, mib: int) -> None:
        """How much of the host's memory its paging (shadow or HAP) may use."""
        await self.run(lambda xc: domain.set_shadow_allocation(xc, domid, mib))

    async def get_shadow_allocation(self, domid: int) -> int:
        """MiB of memory for its paging."""
        return await self.run(lambda xc: domain.get_shadow_allocation(xc, domid))

    async def claim_pages(self, domid: int, pages: int) -> None:
        """Set memory aside for it; 0 gives the rest back."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_claim_pages", pages))

    async def set_pod_target(self, domid: int, target_pages: int) -> None:
        """Move the target of populate-on-demand memory (HVM, PVH)."""
        await self.run(lambda xc: domain.set_pod_target(xc, domid, target_pages))

    # --- what it speaks through

    async def alloc_unbound(self, domid: int, remote_domid: int = 0) -> int:
        """An event channel of the domain's that the remote one may bind; its port."""
        return await self.run(lambda xc: xc.on_domain(domid, "xc_evtchn_alloc_unbound", remote_domid))

    async def set_hvm_param(self, domid: int, param: HvmParam, value: int) -> None:
        """Set a parameter of an HVM or PVH domain."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_hvm_param_set", int(param), value))

    async def get_hvm_param(self, domid: int, param: HvmParam) -> int:
        """A parameter of an HVM or PVH domain."""
        return await self.run(lambda xc: domain.get_hvm_param(xc, domid, param))

    async def set_memory_map(self, domid: int, size_kib: int) -> None:
        """How large a PV guest may become, in one piece."""
        await self.run(lambda xc: domain.set_memory_map(xc, domid, size_kib))

    async def get_clock(self, domid: int) -> int:
        """How many seconds the clock of an HVM domain is from the host's."""
        return await self.run(lambda xc: domain.get_clock(xc, domid))

    async def set_time_offset(self, domid: int, seconds: int) -> None:
        """How far its wall clock is from the host's."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_set_time_offset", seconds))

    # --- passed-through devices

    async def assign_device(self, domid: int, sbdf: int) -> None:
        """Give it a PCI device: segment << 16 | bus << 8 | devfn."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_assign_device", sbdf, 0))

    async def deassign_device(self, domid: int, sbdf: int) -> None:
        """Take a PCI device back."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_deassign_device", sbdf))

    async def test_assign_device(self, domid: int, sbdf: int) -> bool:
        """Whether a PCI device can be given away now."""
        return await self.run(lambda xc: domain.test_assign_device(xc, domid, sbdf))

    async def ioport_permission(self, domid: int, first: int, count: int, *, allow: bool) -> None:
        """Allow or forbid I/O ports."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_ioport_permission", first, count, int(allow)))

    async def iomem_permission(self, domid: int, first_frame: int, frames: int, *, allow: bool) -> None:
        """Allow or forbid memory-mapped registers."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_iomem_permission", first_frame, frames, int(allow)))

    async def irq_permission(self, domid: int, pirq: int, *, allow: bool) -> None:
        """Allow or forbid an interrupt line."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_domain_irq_permission", pirq, allow))

    async def map_pirq(self, domid: int, index: int) -> int:
        """Make a host interrupt line available to it; the guest's number of it."""
        return await self.run(lambda xc: domain.map_pirq(xc, domid, index))

    async def unmap_pirq(self, domid: int, pirq: int) -> None:
        """Take an interrupt line back."""
        await self.run(lambda xc: xc.on_domain(domid, "xc_physdev_unmap_pirq", pirq))
