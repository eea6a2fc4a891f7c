# SPDX-License-Identifier: Apache-2.0
"""The trees that are written for a guest: a golden file a kind of guest, and what must hold of any."""

import os
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.layout import Rings, handle_of
from xenopsd.backends.xen.domain.memory import plan_memory
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, SetPerms, Write

GOLDEN = Path(__file__).parents[3] / "golden" / "xenstore"
HANDLE = "11111111-2222-4333-8444-555555555555"
NONCE = UUID("99999999-0000-4000-8000-000000000000")
KINDS: dict[str, BuilderInfo] = {"hvm": Hvm(), "pv": Pv(boot=Direct(kernel="k")), "pvh": Pvh(boot=Direct(kernel="k"))}


def a_vm(kind: str) -> Vm:
    return Vm(
        id=HANDLE,
        name="guest",
        ty=KINDS[kind],
        vcpus=1,
        vcpu_max=2,
        memory_static_max=256 * MIB,
        memory_dynamic_max=128 * MIB,
        memory_dynamic_min=128 * MIB,
        xsdata={"vm-data/a": "1"},
        platformdata={"nx": "true"},
    )


def changes_of(vm: Vm) -> list[Change]:
    rings = Rings(store_frame=1001, store_port=1, console_frame=1002, console_port=2)
    handle = handle_of(vm.id)
    return [
        *layout.created(vm, handle, 7, NONCE, created_ms=1700000000000),
        *layout.built(vm, handle, 7, rings, plan_memory(vm), timeoffset="0"),
    ]


def told(change: Change) -> str:
    match change:
        case Write(path, value, perms):
            return f"{path} = {value!r}{_as(perms)}"
        case Mkdir(path, perms):
            return f"{path}{_as(perms)}"
        case Remove(path):
            return f"{path} is removed"
        case SetPerms(path, perms):
            return f"{path} is from now on{_as(perms)}"
        case _:
            return repr(change)


def _as(perms: tuple[str, ...]) -> str:
    return f"   ({','.join(perms)})" if perms else ""


@pytest.mark.parametrize("kind", KINDS)
def test_golden_trees(kind: str) -> None:
    text = "".join(f"{told(change)}\n" for change in changes_of(a_vm(kind)))
    path = GOLDEN / f"{kind}.txt"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert text == path.read_text(encoding="utf-8"), "UPDATE_GOLDEN=1 writes it anew; read the difference"


def perms_after(changes: list[Change]) -> dict[str, tuple[str, ...]]:
    """Who may what in the end: a node is made with the permissions of the one above it, unless others are given."""
    perms: dict[str, tuple[str, ...]] = {"": ("n0",)}

    def make(path: str, given: tuple[str, ...]) -> None:
        above = path.rpartition("/")[0]
        if above not in perms:
            make(above, ())
        if given or path not in perms:
            perms[path] = given or perms[above]

    for change in changes:
        match change:
            case Write(path, _, given) | Mkdir(path, given):
                make(path, given)
            case SetPerms(path, given):
                perms[path] = given
            case Remove(path):
                for gone in [known for known in perms if known == path or known.startswith(path + "/")]:
                    del perms[gone]
    return perms


@pytest.mark.parametrize("kind", KINDS)
def test_a_guest_owns_only_what_it_must_write(kind: str) -> None:
    perms = perms_after(changes_of(a_vm(kind)))
    owned = {path for path, who in perms.items() if who[0] == "n7"}
    writes = (*layout._GUEST_WRITES, *(layout._A_PC_WRITES if kind == "hvm" else ()))
    theirs = {*writes, "vm-data", "vm-data/a", "device/suspend/event-channel"}
    assert owned == {f"/local/domain/7/{path}" for path in theirs}
    assert not any(who[1:] and {"w7", "b7"} & set(who[1:]) for who in perms.values())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_noted_of_a_guest_is_not_for_its_eyes(kind: str) -> None:
    perms = perms_after(changes_of(a_vm(kind)))
    assert {perms[path] for path in perms if path.startswith(("/xenopsd/", "/libxl/"))} == {("n0",)}


@given(st.dictionaries(st.text(max_size=30).map(lambda text: f"vm-data/{text}") | st.text(max_size=30), st.text()))
def test_a_records_data_never_leaves_its_folder(xsdata: dict[str, str]) -> None:
    for key in layout.guest_data(xsdata):
        parts = key.split("/")
        assert parts[0] == "vm-data"
        assert len(parts) > 1
        assert not {"", ".", ".."} & set(parts)


def test_what_is_left_of_a_domain_is_nothing() -> None:
    vm = a_vm("pv")
    gone = {change.path for change in layout.gone(handle_of(vm.id), 7, last=True) if isinstance(change, Remove)}
    for change in changes_of(vm):
        if isinstance(change, Write | Mkdir):
            assert any(change.path == path or change.path.startswith(path + "/") for path in gone), change.path


def test_a_domain_that_has_a_successor_leaves_the_machines_tree_alone() -> None:
    handle = handle_of(HANDLE)
    gone = {change.path for change in layout.gone(handle, 7, last=False) if isinstance(change, Remove)}
    assert layout.vm_tree(handle) not in gone
    assert layout.machine(handle) not in gone
