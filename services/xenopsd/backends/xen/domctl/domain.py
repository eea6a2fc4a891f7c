# SPDX-License-Identifier: Apache-2.0
"""Hypercalls about one domain, or all: what goes in and comes out, turned into our own words."""

import struct
import uuid
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from typing import Any

from xenops.errors import DoesNotExist, HypercallFailed
from xenopsd.backends.xen.domctl.facts import (
    Affinity,
    CreateDomain,
    DomainInfo,
    HvmParam,
    Outfit,
    Scheduling,
    VcpuInfo,
)
from xenopsd.backends.xen.libxc import Xc

PAGE_KIB = 4
_HVM, _HAP, _OOS_OFF, _IOMMU, _NESTED_VIRT, _VPMU = (1 << n for n in (0, 1, 3, 5, 6, 7))
_NO_SHAREPT = 1
_SHADOW_OFF = 0  # XEN_DOMCTL_SHADOW_OP_OFF
_MSR_RELAXED = 1
_IN_ONE_GO = 1024
_PAUSES = 16
_CREDIT, _CREDIT2 = 5, 6
_RAM = struct.Struct("<QQI")  # a packed struct e820entry
_CLOCK_RECORD, _CLOCK = 11, struct.Struct("=16xq")  # struct hvm_hw_rtc: rtc_offset at its end


def create(xc: Xc, wanted: CreateDomain, domid: int) -> int:
    """Make an empty domain; its domid."""
    config = xc.ffi.new("struct xen_domctl_createdomain *")
    config.ssidref = wanted.ssidref
    config.handle = list(wanted.handle.bytes)
    config.flags = (
        wanted.hvm * _HVM
        | wanted.hap * _HAP
        | wanted.oos_off * _OOS_OFF
        | wanted.iommu * _IOMMU
        | wanted.nested_virt * _NESTED_VIRT
        | wanted.vpmu * _VPMU
    )
    config.iommu_opts = wanted.no_sharept * _NO_SHAREPT
    config.max_vcpus = wanted.max_vcpus
    config.max_evtchn_port = wanted.max_evtchn_port & 0xFFFFFFFF
    config.max_grant_frames = wanted.max_grant_frames
    config.max_maptrack_frames = wanted.max_maptrack_frames
    config.grant_opts = wanted.max_grant_version
    config.cpupool_id = wanted.cpupool_id
    config.arch.emulation_flags = wanted.emulation_flags
    config.arch.misc_flags = wanted.msr_relaxed * _MSR_RELAXED
    chosen = xc.ffi.new("uint32_t *", domid)
    xc.call("xc_domain_create", chosen, config)
    return int(chosen[0])


def list_info(xc: Xc, first: int) -> list[DomainInfo]:
    """Every domain from `first` on."""
    found: list[DomainInfo] = []
    raw = xc.ffi.new("struct xen_domctl_getdomaininfo[]", _IN_ONE_GO)
    while True:
        count = xc.call("xc_domain_getinfolist", first, _IN_ONE_GO, raw)
        found.extend(_info(each) for each in raw[0:count])
        if count < _IN_ONE_GO:
            return found
        first = found[-1].domid + 1


def get_info(xc: Xc, domid: int) -> DomainInfo | None:
    """The domain of that domid; the hypervisor answers with the next one when there is none."""
    raw = xc.ffi.new("struct xen_domctl_getdomaininfo *")
    count = xc.call("xc_domain_getinfolist", domid, 1, raw)
    return _info(raw) if count == 1 and raw.domain == domid else None


def let_run(xc: Xc, domid: int) -> None:
    """Xen counts pauses, and others may have stacked theirs upon ours."""
    for _ in range(_PAUSES):
        info = get_info(xc, domid)
        if info is None or not info.paused:
            return
        xc.on_domain(domid, "xc_domain_unpause")


def _info(raw: Any) -> DomainInfo:
    flags: int = raw.flags
    return DomainInfo(
        domid=raw.domain,
        handle=uuid.UUID(bytes=bytes(raw.handle)),
        dying=bool(flags & 1),
        hvm=bool(flags & 2),
        shutdown=bool(flags & 4),
        paused=bool(flags & 8),
        blocked=bool(flags & 16),
        running=bool(flags & 32),
        hap=bool(flags & 256),
        shutdown_reason=flags >> 16 & 255,
        memory_kib=raw.tot_pages * PAGE_KIB,
        max_memory_kib=raw.max_pages * PAGE_KIB,
        vcpus_online=raw.nr_online_vcpus,
        max_vcpu_id=raw.max_vcpu_id,
        cpu_time_ns=raw.cpu_time,
        ssidref=raw.ssidref,
        emulation_flags=raw.arch_config.emulation_flags,
    )


def vcpu_info(xc: Xc, domid: int, vcpu: int) -> VcpuInfo:
    """What one vCPU does."""
    raw = xc.ffi.new("struct xen_domctl_getvcpuinfo *")
    xc.on_domain(domid, "xc_vcpu_getinfo", vcpu, raw)
    return VcpuInfo(bool(raw.online), bool(raw.blocked), bool(raw.running), raw.cpu_time, raw.cpu)


def set_affinity(xc: Xc, domid: int, vcpu: int, kind: Affinity, cpus: Collection[int]) -> None:
    """Where the vCPU may or should run."""
    cpumap = _bitmap(xc, xc.call("xc_get_cpumap_size"), cpus)
    both = (cpumap, xc.ffi.NULL) if kind is Affinity.HARD else (xc.ffi.NULL, cpumap)
    xc.on_domain(domid, "xc_vcpu_setaffinity", vcpu, *both, int(kind))


def get_affinity(xc: Xc, domid: int, vcpu: int, kind: Affinity) -> list[int]:
    """Where the vCPU may or should run."""
    cpumap = _bitmap(xc, xc.call("xc_get_cpumap_size"), ())
    both = (cpumap, xc.ffi.NULL) if kind is Affinity.HARD else (xc.ffi.NULL, cpumap)
    xc.on_domain(domid, "xc_vcpu_getaffinity", vcpu, *both, int(kind))
    return [8 * n + bit for n, byte in enumerate(bytes(cpumap)) for bit in range(8) if byte >> bit & 1]


def set_node_affinity(xc: Xc, domid: int, nodes: Collection[int]) -> None:
    """Which nodes its memory should come from."""
    xc.on_domain(domid, "xc_domain_node_setaffinity", _bitmap(xc, xc.call("xc_get_nodemap_size"), nodes))


def _bitmap(xc: Xc, size: int, members: Iterable[int]) -> Any:
    bits = bytearray(size)
    for member in members:
        if not 0 <= member < 8 * size:
            raise HypercallFailed("cpumap", "EINVAL", f"there is no processor or node {member}")
        bits[member >> 3] |= 1 << (member & 7)
    return xc.ffi.new("uint8_t[]", bytes(bits))


def set_scheduling(xc: Xc, domid: int, scheduling: Scheduling) -> None:
    """Weight and cap, in whichever credit scheduler runs."""
    name = _scheduler(xc)
    raw = xc.ffi.new(f"struct xen_domctl_sched_{name} *", [scheduling.weight, scheduling.cap])
    xc.on_domain(domid, f"xc_sched_{name}_domain_set", raw)


def get_scheduling(xc: Xc, domid: int) -> Scheduling:
    """Weight and cap."""
    name = _scheduler(xc)
    raw = xc.ffi.new(f"struct xen_domctl_sched_{name} *")
    xc.on_domain(domid, f"xc_sched_{name}_domain_get", raw)
    return Scheduling(raw.weight, raw.cap)


def _scheduler(xc: Xc) -> str:
    number = xc.ffi.new("int *")
    xc.call("xc_sched_id", number)
    if number[0] not in (_CREDIT, _CREDIT2):
        raise HypercallFailed("xc_sched_id", "ENOTSUP", f"scheduler {number[0]} has no weights and caps")
    return "credit" if number[0] == _CREDIT else "credit2"


def apply_cpu_policy(
    xc: Xc, domid: int, features: Sequence[int] | None, *, restore: bool, pae: bool, itsc: bool, nested: bool
) -> None:
    """Which processor the guest sees."""
    words = xc.ffi.NULL if features is None else xc.ffi.new("uint32_t[]", list(features))
    count = 0 if features is None else len(features)
    nothing = xc.ffi.NULL
    xc.on_domain(domid, "xc_cpuid_apply_policy", restore, words, count, pae, itsc, nested, nothing, nothing)


def set_shadow_allocation(xc: Xc, domid: int, mib: int) -> None:
    """Memory for its paging."""
    xc.on_domain(domid, "xc_set_paging_mempool_size", mib << 20)


def get_shadow_allocation(xc: Xc, domid: int) -> int:
    """MiB of memory for its paging."""
    size = xc.ffi.new("uint64_t *")
    xc.on_domain(domid, "xc_get_paging_mempool_size", size)
    return int(size[0]) >> 20


def forget_writes(xc: Xc, domid: int) -> None:
    """No account of the pages that it writes to. Xen refuses it after that where there is HAP, which has nothing to switch off."""
    with suppress(HypercallFailed):
        xc.on_domain(domid, "xc_shadow_control", _SHADOW_OFF, xc.ffi.NULL, 0)


def set_pod_target(xc: Xc, domid: int, target_pages: int) -> None:
    """The target of populate-on-demand memory."""
    xc.on_domain(domid, "xc_domain_set_pod_target", target_pages, xc.ffi.NULL, xc.ffi.NULL, xc.ffi.NULL)


def get_hvm_param(xc: Xc, domid: int, param: HvmParam) -> int:
    """A parameter of an HVM or PVH domain."""
    value = xc.ffi.new("uint64_t *")
    xc.on_domain(domid, "xc_hvm_param_get", int(param), value)
    return int(value[0])


def set_memory_map(xc: Xc, domid: int, size_kib: int) -> None:
    """What a PV guest finds when it asks how far its memory may grow; else it thinks of what it has, and 8 MiB."""
    entry = xc.ffi.new("uint8_t[]", _RAM.pack(0, size_kib << 10, 1))
    xc.on_domain(domid, "xc_domain_set_memory_map", xc.ffi.cast("struct e820entry *", entry), 1)


def outfit(xc: Xc, domid: int, given: Outfit) -> tuple[int, int]:
    """All that an empty domain gets before its memory is filled; the ports of its store and its console."""
    xc.on_domain(domid, "xc_domain_max_vcpus", given.vcpus)
    xc.on_domain(domid, "xc_domain_setmaxmem", given.max_memory_kib)
    xc.on_domain(domid, "xc_domain_set_tsc_info", 0, 0, 0, 0)
    apply_cpu_policy(xc, domid, None, restore=False, pae=True, itsc=False, nested=False)
    if given.shadow_mib:
        set_shadow_allocation(xc, domid, given.shadow_mib)
    if given.time_offset_s:
        xc.on_domain(domid, "xc_domain_set_time_offset", given.time_offset_s)
    if given.memory_map_kib:
        set_memory_map(xc, domid, given.memory_map_kib)
    for param, value in given.hvm_params.items():
        xc.on_domain(domid, "xc_hvm_param_set", int(param), value)
    if given.scheduling is not None:
        set_scheduling(xc, domid, given.scheduling)
    for vcpu, cpus in given.affinity.items():
        set_affinity(xc, domid, vcpu, Affinity.HARD, cpus)
    store_port, console_port = (xc.on_domain(domid, "xc_evtchn_alloc_unbound", 0) for _ in range(2))
    return store_port, console_port


def get_clock(xc: Xc, domid: int) -> int:
    """How far the clock of an HVM domain is from the host's: what it was set to, or what its guest has set since.

    Raises `DoesNotExist` for one that has no vCPUs yet.
    """
    vcpu_info(
        xc, domid, 0
    )  # Xen 4.17 looks for the clock at the first vCPU, and goes down with the host when there is none
    record = xc.ffi.new("uint8_t[]", _CLOCK.size)
    xc.on_domain(domid, "xc_domain_hvm_getcontext_partial", _CLOCK_RECORD, 0, record, _CLOCK.size)
    (offset_s,) = _CLOCK.unpack(bytes(record))
    return int(offset_s)


def test_assign_device(xc: Xc, domid: int, sbdf: int) -> bool:
    """Whether a PCI device can be given away now."""
    try:
        xc.on_domain(domid, "xc_test_assign_device", sbdf)
    except (DoesNotExist, HypercallFailed):
        return False
    return True


def map_pirq(xc: Xc, domid: int, index: int) -> int:
    """The guest's number of a host interrupt line."""
    pirq = xc.ffi.new("int *", index)
    xc.on_domain(domid, "xc_physdev_map_pirq", index, pirq)
    return int(pirq[0])
