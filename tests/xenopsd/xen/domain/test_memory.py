# SPDX-License-Identifier: Apache-2.0
"""How much memory guests need."""

from hypothesis import given
from hypothesis import strategies as st

from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.xen.domain.memory import plan_memory, shadow

KINDS: list[BuilderInfo] = [Hvm(), Pv(boot=Direct(kernel="k")), Pvh(boot=Direct(kernel="k"))]


def a_vm(kind: BuilderInfo, static_mib: int, dynamic_mib: int, vcpus: int) -> Vm:
    return Vm(
        id="vm",
        ty=kind,
        memory_static_max=static_mib * MIB,
        memory_dynamic_max=dynamic_mib * MIB,
        memory_dynamic_min=dynamic_mib * MIB,
        vcpus=vcpus,
        vcpu_max=vcpus,
    )


def test_a_paravirtual_guest_needs_no_page_tables_of_xens() -> None:
    plan = plan_memory(a_vm(KINDS[1], 256, 256, 1))
    assert plan.shadow_mib == 0
    assert plan.target_kib == 256 << 10
    assert plan.max_kib == (256 << 10) + 1024


def test_shadow_memory_is_that_of_xl() -> None:
    # libxl_get_required_shadow_memory(256 MiB, 1 vCPU): 4 * (256 * 1 + 2 * 256) KiB
    assert shadow(a_vm(KINDS[0], 256, 256, 1), 1.0) == 3
    assert shadow(a_vm(KINDS[2], 1024, 1024, 4), 1.0) == 12
    assert shadow(a_vm(KINDS[0], 256, 256, 1), 2.0) == 6


def test_video_memory_is_part_of_an_emulated_guests() -> None:
    plan = plan_memory(a_vm(Hvm(video_mib=16), 128, 128, 1))
    assert plan.video_kib == 16 << 10
    assert plan.target_kib == 128 << 10


@given(st.sampled_from(KINDS), st.integers(1, 1 << 20), st.integers(1, 1 << 20), st.integers(1, 64))
def test_what_holds_of_every_plan(kind: BuilderInfo, static: int, dynamic: int, vcpus: int) -> None:
    plan = plan_memory(a_vm(kind, static, dynamic, vcpus))
    assert 0 < plan.target_kib <= plan.static_max_kib < plan.max_kib
    assert plan.needed_kib > plan.target_kib
    assert plan_memory(a_vm(kind, static, dynamic, vcpus), target_bytes=MIB).target_kib == 1024
