# SPDX-License-Identifier: Apache-2.0
"""The host: its processors, its hypervisor, what its chipset can do."""

from enum import Enum

from xenops.types.record import Record


class CpuInfo(Record, frozen=True, kw_only=True):
    """The physical processors; feature strings are the hypervisor's, in hexadecimal words."""

    cpu_count: int = 0
    socket_count: int = 0
    threads_per_core: int = 0
    nr_nodes: int = 0
    vendor: str = "unknown"
    speed: str = ""
    modelname: str = ""
    family: str = ""
    model: str = ""
    stepping: str = ""
    flags: str = ""
    features: str = ""
    features_pv: str = ""
    features_hvm: str = ""
    features_pv_host: str = ""
    features_hvm_host: str = ""


class Hypervisor(Record, frozen=True, kw_only=True):
    """Version (such as 4.17.3) and capabilities (such as xen-3.0-x86_64)."""

    version: str = ""
    capabilities: str = ""


class ChipsetInfo(Record, frozen=True, kw_only=True):
    """Whether devices can be passed through and whether full virtualisation is possible."""

    iommu: bool = False
    hvm: bool = False


class Host(Record, frozen=True, kw_only=True):
    """What `HOST.stat` answers."""

    cpu_info: CpuInfo
    hypervisor: Hypervisor
    chipset_info: ChipsetInfo
    memory_total: int = 0
    memory_free: int = 0


class NumaAffinityPolicy(Enum):
    """How a guest's memory is placed on NUMA nodes."""

    ANY = "Any"
    BEST_EFFORT = "Best_effort"
    BEST_EFFORT_HARD = "Best_effort_hard"
    PRIO_MEM_ONLY = "Prio_mem_only"
