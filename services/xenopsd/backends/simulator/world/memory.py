# SPDX-License-Identifier: Apache-2.0
"""How much of the host's memory a domain takes beside its own: the tool stack's rules of thumb. Pure."""

from math import ceil, floor

from xenops.types.vm import DomainType
from xenopsd.backends.simulator.world.domain import Domain

_KIB = 1024  # a MiB is as many KiB


def overhead_kib(domain: Domain) -> int:
    """Shadow pages, vCPU contexts, Xen's own pages, and the shim of a PV guest within a PVH one."""
    internal = 0 if domain.kind is DomainType.PV else 1
    external = 1
    static_max_mib = domain.static_max_kib // _KIB
    shim = 23 + static_max_mib // 90 if domain.kind is DomainType.PV_IN_PVH else 0
    return (internal + external + shadow_mib(domain) + ceil(38 * domain.vcpu_max / 256) + shim) * _KIB


def shadow_mib(domain: Domain) -> int:
    """Shadow memory: a page for each vCPU and two for each MiB, times the multiplier."""
    pages = 256 * domain.vcpu_max + 2 * (domain.static_max_kib // _KIB)
    return max(1, floor(ceil(pages / 256) * domain.shadow_multiplier))
