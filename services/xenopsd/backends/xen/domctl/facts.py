# SPDX-License-Identifier: Apache-2.0
"""What hypercalls are told and tell, in words: domains, vCPUs, the host."""

import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum

EMULATE_NOTHING = 0
EMULATE_LAPIC = 1  # PVH
EMULATE_ALL = 0x3FF  # HVM: everything but vPCI


class Shutdown(IntEnum):
    """Why a domain has shut down, or is told to."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2
    CRASH = 3
    WATCHDOG = 4
    SOFT_RESET = 5


class HvmParam(IntEnum):
    """The parameters of an HVM or PVH domain that are of use here."""

    CALLBACK_IRQ = 0
    STORE_PFN = 1
    STORE_EVTCHN = 2
    PAE_ENABLED = 4
    VIRIDIAN = 9
    TIMER_MODE = 10
    HPET_ENABLED = 11
    ACPI_S_STATE = 14
    VPT_ALIGN = 16
    CONSOLE_PFN = 17
    CONSOLE_EVTCHN = 18
    NESTEDHVM = 24
    VM_GENERATION_ID_ADDR = 34
    ALTP2M = 35
    MCA_CAP = 38


class Trigger(IntEnum):
    """What can be done to a vCPU or to the ACPI of an HVM guest."""

    NMI = 0
    RESET = 1
    INIT = 2
    POWER = 3
    SLEEP = 4


class Featureset(IntEnum):
    """Which guest a set of processor features is for."""

    RAW = 0
    HOST = 1
    PV = 2
    HVM = 3
    PV_MAX = 4
    HVM_MAX = 5


class Affinity(IntEnum):
    """Where a vCPU may run, or where it had better."""

    HARD = 1
    SOFT = 2


@dataclass(frozen=True)
class CreateDomain:
    """What a domain is for all its life."""

    handle: uuid.UUID
    max_vcpus: int
    hvm: bool = False  # HVM and PVH
    hap: bool = False
    oos_off: bool = False
    iommu: bool = False
    nested_virt: bool = False
    vpmu: bool = False
    no_sharept: bool = False
    msr_relaxed: bool = False
    emulation_flags: int = EMULATE_NOTHING
    max_evtchn_port: int = -1
    max_grant_frames: int = 64
    max_maptrack_frames: int = 1024
    max_grant_version: int = 2
    ssidref: int = 0
    cpupool_id: int = 0


@dataclass(frozen=True, kw_only=True)
class Outfit:
    """What an empty domain is given before its memory is filled."""

    vcpus: int
    max_memory_kib: int
    shadow_mib: int = 0
    memory_map_kib: int = 0  # of a PV guest
    time_offset_s: int = 0
    hvm_params: Mapping[HvmParam, int] = field(default_factory=dict)
    scheduling: "Scheduling | None" = None
    affinity: Mapping[int, Collection[int]] = field(default_factory=dict)  # of each vCPU that has one


@dataclass(frozen=True)
class DomainInfo:
    """A domain as the hypervisor sees it."""

    domid: int
    handle: uuid.UUID
    dying: bool
    shutdown: bool
    paused: bool
    blocked: bool
    running: bool
    hvm: bool
    hap: bool
    shutdown_reason: int  # means something only when `shutdown`
    memory_kib: int
    max_memory_kib: int
    vcpus_online: int
    max_vcpu_id: int
    cpu_time_ns: int
    ssidref: int
    emulation_flags: int


@dataclass(frozen=True)
class VcpuInfo:
    """A vCPU as the hypervisor sees it."""

    online: bool
    blocked: bool
    running: bool
    cpu_time_ns: int
    cpu: int


@dataclass(frozen=True)
class Version:
    """The hypervisor and its build."""

    major: int
    minor: int
    extra: str
    capabilities: tuple[str, ...]
    changeset: str
    cmdline: str

    @property
    def release(self) -> str:
        """Such as 4.17."""
        return f"{self.major}.{self.minor}"


@dataclass(frozen=True)
class PhysInfo:
    """The host's processors and memory."""

    nr_cpus: int
    max_cpu_id: int
    nr_nodes: int
    threads_per_core: int
    cores_per_socket: int
    cpu_khz: int
    total_memory_kib: int
    free_memory_kib: int
    scrub_memory_kib: int
    claimed_memory_kib: int
    hvm: bool
    pv: bool
    directio: bool
    hap: bool
    shadow: bool
    vpmu: bool
    gnttab_v2: bool
    hw_cap: tuple[int, ...]


@dataclass(frozen=True)
class Cpu:
    """Where a processor sits."""

    core: int
    socket: int
    node: int


@dataclass(frozen=True)
class NumaNode:
    """A node's memory, and how far it is from each of the others."""

    memory_kib: int
    free_memory_kib: int
    distances: tuple[int, ...]


@dataclass(frozen=True)
class Scheduling:
    """A domain's share of the processors (credit and credit2)."""

    weight: int
    cap: int  # percent of one processor; 0 means none
