# SPDX-License-Identifier: Apache-2.0
"""What the simulated hypervisor says of a domain, in the words that all backends use."""

from xenops.types.vm import PowerState, VmState
from xenopsd.backends.simulator.world.domain import Domain, ShutdownCode
from xenopsd.backends.simulator.world.world import World

_TRUE = ("1", "true", "yes", "on")


def render(domain: Domain, world: World) -> VmState:
    """All of it."""
    return VmState(
        power_state=power_state_of(domain),
        domids=[domain.domid],
        consoles=world.screens.consoles(domain.domid),
        memory_target=domain.target_kib << 10,
        memory_actual=domain.target_kib << 10 if domain.built else 0,
        memory_limit=domain.static_max_kib << 10,
        vcpu_target=domain.vcpus,
        shadow_multiplier_target=domain.shadow_multiplier,
        rtc_timeoffset=domain.timeoffset,
        guest_agent=domain.guest,
        xsdata_state=domain.xsdata,
        pv_drivers_detected=domain.booted,
        last_start_time=domain.created_ms,
        hvm=domain.hvm,
        domain_type=domain.kind,
        nomigrate=_truth(domain, "nomigrate"),
        nested_virt=_truth(domain, "nested-virt"),
        featureset=domain.platform.get("featureset", ""),
    )


def power_state_of(domain: Domain) -> PowerState:
    """One that shut down by itself counts as running until somebody has seen to it."""
    if domain.shutdown is ShutdownCode.SUSPEND:
        return PowerState.SUSPENDED
    return PowerState.PAUSED if domain.paused else PowerState.RUNNING


def _truth(domain: Domain, key: str) -> bool:
    return domain.platform.get(key, "").lower() in _TRUE
