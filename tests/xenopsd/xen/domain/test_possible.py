# SPDX-License-Identifier: Apache-2.0
"""What hosts cannot give is refused by name, and everything else is not."""

from dataclasses import replace

import pytest

from xenops.errors import BadRequest, Fault, Unimplemented
from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.xen.builder.orders import GuestKind
from xenopsd.backends.xen.domain.possible import paging, refuse_impossible
from xenopsd.backends.xen.domctl import PhysInfo

HOST = PhysInfo(
    nr_cpus=2,
    max_cpu_id=1,
    nr_nodes=1,
    threads_per_core=1,
    cores_per_socket=2,
    cpu_khz=2_000_000,
    total_memory_kib=1 << 20,
    free_memory_kib=1 << 19,
    scrub_memory_kib=0,
    claimed_memory_kib=0,
    hvm=True,
    pv=True,
    directio=False,
    hap=True,
    shadow=True,
    vpmu=False,
    gnttab_v2=True,
    hw_cap=(),
)
PV, PVH, HVM = Pv(boot=Direct(kernel="k")), Pvh(boot=Direct(kernel="k")), Hvm()
KINDS = {Pv: GuestKind.PV, Pvh: GuestKind.PVH, Hvm: GuestKind.HVM}


def a_vm(ty: BuilderInfo, vcpus: int = 1, **platformdata: str) -> Vm:
    keys = {key.replace("_", "-") if key == "nested_virt" else key: value for key, value in platformdata.items()}
    return Vm(id="vm", ty=ty, platformdata=keys, vcpus=vcpus, vcpu_max=vcpus, memory_dynamic_max=64 * MIB)


def asked(vm: Vm, host: PhysInfo = HOST) -> None:
    refuse_impossible(vm, KINDS[type(vm.ty)], host)


@pytest.mark.parametrize("ty", [PV, PVH, HVM])
def test_a_plain_guest_is_possible(ty: BuilderInfo) -> None:
    asked(a_vm(ty))
    asked(a_vm(ty, hap="0", vpmu="0"))


@pytest.mark.parametrize(
    ("vm", "host", "fault", "words"),
    [
        (a_vm(PVH, vcpus=129), HOST, BadRequest, "128 at most"),
        (a_vm(PV, vpmu="1"), HOST, BadRequest, "performance counters"),
        (a_vm(PV), replace(HOST, pv=False), Unimplemented, "a PV guest: Xen was built without PV"),
        (a_vm(PVH), replace(HOST, hvm=False), Unimplemented, "a PVH guest: Xen finds no hardware"),
        (a_vm(HVM), replace(HOST, hvm=False), Unimplemented, "an HVM|a HVM"),
        (a_vm(PVH, hap="0"), replace(HOST, shadow=False), BadRequest, "platformdata.hap"),
        (a_vm(HVM), replace(HOST, shadow=False, hap=False), BadRequest, "platformdata.hap"),
        (a_vm(Hvm(hap=False)), replace(HOST, shadow=False), BadRequest, "vm.ty.hap"),
        (a_vm(HVM, hap="0", nested_virt="1"), HOST, BadRequest, "nested-virt"),
        (a_vm(Hvm(video_mib=64)), HOST, BadRequest, "graphics card"),
        (a_vm(Hvm(qemu_stubdom=True)), HOST, Unimplemented, "qemu_stubdom"),
        (a_vm(Hvm(tpm="vtpm")), HOST, Unimplemented, "TPM"),
    ],
)
def test_what_is_not_possible_is_named(vm: Vm, host: PhysInfo, fault: type[Fault], words: str) -> None:
    with pytest.raises(fault, match=words):
        asked(vm, host)


def test_pages_are_walked_by_the_processor_where_it_can_unless_told_not_to() -> None:
    assert paging(a_vm(HVM), HOST)
    assert paging(a_vm(PVH), HOST)
    assert not paging(a_vm(Hvm(hap=False)), HOST)
    assert not paging(a_vm(PVH, hap="false"), HOST)
    assert not paging(a_vm(HVM), replace(HOST, hap=False))


def test_counters_are_given_where_there_are_some() -> None:
    asked(a_vm(PVH, vpmu="1"), replace(HOST, vpmu=True))
