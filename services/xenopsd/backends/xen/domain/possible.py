# SPDX-License-Identifier: Apache-2.0
"""What this host can give a guest: asked before anything is created, for Xen refuses with EINVAL and not a word of why."""

from xenops.errors import BadRequest, Unimplemented
from xenops.types.vm import Hvm, Vm
from xenopsd.backends.xen.builder.orders import GuestKind
from xenopsd.backends.xen.domctl import PhysInfo
from xenopsd.backends.xen.platform import flag

_HVM_VCPUS = 128  # hvm_info_table.h: HVM_MAX_VCPUS


def refuse_impossible(vm: Vm, kind: GuestKind, host: PhysInfo) -> None:
    """Raises `BadRequest`, `Unimplemented`."""
    if not (host.pv if kind is GuestKind.PV else host.hvm):
        what = "was built without PV" if kind is GuestKind.PV else "finds no hardware virtualisation here (VT-x or SVM)"
        raise Unimplemented(f"a {kind.name} guest: Xen {what}, so it")
    if kind is not GuestKind.PV:
        _refuse_paging(vm, host)
        if vm.vcpu_max > _HVM_VCPUS:
            most = f"Xen gives {_HVM_VCPUS} at most to a guest that is not PV"
            raise BadRequest("vm.vcpu_max", f"is {vm.vcpu_max}; {most}")
    if flag(vm, "vpmu", default=False) and not host.vpmu:
        counters = "this host has no performance counters for guests; they need a processor that has them, and vpmu=1"
        raise BadRequest("platformdata.vpmu", f"{counters} among Xen's own options when it boots")
    if isinstance(vm.ty, Hvm):
        _refuse_devices(vm, vm.ty)


def paging(vm: Vm, host: PhysInfo) -> bool:
    """Whether the processor walks the guest's page tables (HAP); else Xen shadows them. As xl: where it can, unless told not to.

    Raises `BadRequest`.
    """
    wanted = flag(vm, "hap", default=True) and (not isinstance(vm.ty, Hvm) or vm.ty.hap)
    return wanted and host.hap


def _refuse_paging(vm: Vm, host: PhysInfo) -> None:
    if not paging(vm, host) and not host.shadow:
        field = "vm.ty.hap" if isinstance(vm.ty, Hvm) and not vm.ty.hap else "platformdata.hap"
        raise BadRequest(field, "this Xen was built without shadow paging, so it cannot be false here")
    if isinstance(vm.ty, Hvm) and flag(vm, "nested-virt", default=False) and not paging(vm, host):
        raise BadRequest(
            "platformdata.nested-virt", "needs hardware assisted paging (hap), which this guest does not have"
        )


def _refuse_devices(vm: Vm, its: Hvm) -> None:
    if vm.memory_dynamic_max >> 20 <= its.video_mib:
        memory = f"is {vm.memory_dynamic_max >> 20} MiB, and the graphics card takes {its.video_mib} MiB of that"
        raise BadRequest("vm.memory_dynamic_max", memory)
    if its.qemu_stubdom:
        raise Unimplemented("a device model in a domain of its own (qemu_stubdom)")
    if its.tpm:
        raise Unimplemented("a TPM")
