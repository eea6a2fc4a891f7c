# SPDX-License-Identifier: Apache-2.0
"""Which machine, which device: by name, id or unique beginning, and never by guessing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import DoesNotExist
from xenops.types.vm import HALTED, Hvm, Vm, VmStat
from xenops_cli.exits import Complaint, Exit
from xenops_cli.selection import matches, pick, split_device


def known(*pairs: tuple[str, str]) -> list[VmStat]:
    return [VmStat(vm=Vm(id=id, name=name, ty=Hvm()), state=HALTED) for id, name in pairs]


MACHINES = known(
    ("a1-b", "web"), ("a2-c", "web.backup"), ("b3-d", "mail"), ("web-id", "db"), ("e5", "twin"), ("e6", "twin")
)


@pytest.mark.parametrize(
    ("text", "id"),
    [
        ("a1-b", "a1-b"),
        ("web", "a1-b"),  # the exact name wins over the names and ids that begin with it
        ("web.", "a2-c"),
        ("web-", "web-id"),
        ("mai", "b3-d"),
        ("b", "b3-d"),
        ("e5", "e5"),
    ],
)
def test_a_machine_is_found(text: str, id: str) -> None:
    assert pick(MACHINES, text).vm.id == id


@pytest.mark.parametrize(
    ("text", "candidates"), [("twin", ["e5", "e6"]), ("a", ["a1-b", "a2-c"]), ("we", ["a1-b", "a2-c", "web-id"])]
)
def test_several_are_listed_and_none_is_chosen(text: str, candidates: list[str]) -> None:
    with pytest.raises(Complaint) as caught:
        pick(MACHINES, text)
    assert caught.value.code == Exit.NOT_FOUND
    assert all(f"\n  {id}  " in str(caught.value) for id in candidates)


@pytest.mark.parametrize(
    ("machines", "text", "hint"),
    [(MACHINES, "mial", "did you mean 'mail'?"), (MACHINES, "", "xenops-cli list"), ([], "x", "xenops-cli add FILE")],
)
def test_none_says_what_to_do(machines: list[VmStat], text: str, hint: str) -> None:
    with pytest.raises(Complaint, match="there is no machine") as caught:
        pick(machines, text)
    assert hint in str(caught.value)
    assert caught.value.code == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["mail.hda"], ("b3-d", "hda")),
        (["mail", "hda"], ("b3-d", "hda")),
        (["web.backup.hda"], ("a2-c", "hda")),  # the machine's name has a dot
        (["mail.0.1"], ("b3-d", "0.1")),  # the device's name has a dot
        (["web.backup"], ("a1-b", "backup")),
    ],
)
def test_a_device_is_found(words: list[str], found: tuple[str, str]) -> None:
    machine, device = split_device(MACHINES, words)
    assert (machine.vm.id, device) == found


@pytest.mark.parametrize("words", [["mail"], ["mail."], [".hda"], ["a", "b", "c"], []])
def test_what_is_no_device_is_a_usage_error(words: list[str]) -> None:
    with pytest.raises(Complaint) as caught:
        split_device(MACHINES, words)
    assert caught.value.code == Exit.USAGE


@given(st.text(max_size=12))
def test_any_text_finds_a_machine_or_complains(untrusted: str) -> None:
    found = matches(MACHINES, untrusted)
    if len(found) == 1:
        assert pick(MACHINES, untrusted) is found[0]
    else:
        with pytest.raises(Complaint):
            pick(MACHINES, untrusted)


def test_a_uuid_is_asked_for_and_the_list_is_not(cli: Any, world: Any, fake: Any) -> None:
    assert cli("pause", fake.FIRST).code == 0
    assert "VM.list" not in [method for method, _ in world.asked]


def test_a_uuid_that_is_only_a_name_is_found_too(cli: Any, world: Any, fake: Any) -> None:
    odd = "33333333-3333-4333-8333-333333333333"
    assert cli("pause", odd, VM_list=[fake.vm("x1", odd)], VM_stat=DoesNotExist("VM", odd)).code == 0
    assert world.params("VM.pause") == {"id": "x1"}


def test_a_name_may_begin_with_a_dash(cli: Any, world: Any, fake: Any) -> None:
    machines = [fake.vm("x1", "-weird"), fake.vm("x2", "--")]
    assert cli("pause", "--", "-weird", VM_list=machines).code == 0
    assert world.params("VM.pause") == {"id": "x1"}
    assert cli("cd-eject", "--", "-weird", "hdb").code == 0
    assert str(world.params("VBD.eject")["id"]) == "x1.hdb"
