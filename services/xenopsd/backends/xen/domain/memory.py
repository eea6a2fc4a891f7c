# SPDX-License-Identifier: Apache-2.0
"""How much memory a guest needs: its pages, and what Xen and the device model need beside them.

    pages of the guest       what it may use, less its video memory (HVM)
    max pages                what Xen lets it have at most: the above and a slack of 1 MiB
    shadow or p2m            page tables that Xen keeps for it: 8 KiB for each MiB and 1 MiB for each vCPU (HVM, PVH)
    overhead                 what must be free beside the guest's pages: the slack, shadow, and the vCPUs' structures

The figures are those of libxl (`libxl_get_required_shadow_memory`, LIBXL_MAXMEM_CONSTANT) and of xenopsd's
memory model.
"""

from dataclasses import dataclass

from xenops.types.vm import MIB, Hvm, Pv, Vm

_SLACK_KIB = 1024
_ROMS_KIB = 16 << 10  # VGA and option ROMs that the device model maps into an HVM guest
_VCPU_KIB = 256


@dataclass(frozen=True)
class MemoryPlan:
    """The sizes of one guest, in KiB where not said otherwise."""

    target_kib: int
    static_max_kib: int
    video_kib: int
    shadow_mib: int
    max_kib: int
    overhead_kib: int

    @property
    def needed_kib(self) -> int:
        """What must be free before the guest is built."""
        return self.target_kib + self.overhead_kib


def plan_memory(vm: Vm, *, target_bytes: int | None = None) -> MemoryPlan:
    """The plan of a machine that starts with `target_bytes` (its dynamic maximum, when not given)."""
    static_max_kib = vm.memory_static_max >> 10
    wanted = vm.memory_dynamic_max if target_bytes is None else target_bytes
    target_kib = min(wanted >> 10, static_max_kib)
    video_kib = vm.ty.video_mib << 10 if isinstance(vm.ty, Hvm) else 0
    shadow_mib = (
        0 if isinstance(vm.ty, Pv) else shadow(vm, 1.0 if not isinstance(vm.ty, Hvm) else vm.ty.shadow_multiplier)
    )
    roms_kib = _ROMS_KIB if isinstance(vm.ty, Hvm) else 0
    return MemoryPlan(
        target_kib=target_kib,
        static_max_kib=static_max_kib,
        video_kib=video_kib,
        shadow_mib=shadow_mib,
        max_kib=static_max_kib + _SLACK_KIB + roms_kib,
        overhead_kib=_SLACK_KIB + roms_kib + (shadow_mib << 10) + _VCPU_KIB * vm.vcpu_max,
    )


def shadow(vm: Vm, multiplier: float) -> int:
    """Shadow or p2m memory in MiB."""
    needed_kib = 8 * (vm.memory_static_max // MIB) + 1024 * vm.vcpu_max
    return max(1, -(-int(needed_kib * multiplier) // 1024))
