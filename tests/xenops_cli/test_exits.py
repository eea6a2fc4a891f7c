# SPDX-License-Identifier: Apache-2.0
"""How it ends: one code for each kind of failure, one sentence for a person, one document for a program."""

import json
from typing import Any

import pytest

from xenops import errors
from xenops.errors import Fault
from xenops_cli.exits import MEANINGS, Complaint, Exit, code_of, legend, sentence_of


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        (errors.DoesNotExist("VM", "x"), 3),
        (errors.BadPowerState("Halted", "Running"), 4),
        (errors.TimedOut("q", 1.0), 124),
        (errors.DeadlineExceeded(1), 124),
        (errors.FailedToShutdown("x", 3.0), 124),
        (errors.FailedToAcknowledgeShutdownRequest("x", 3.0), 124),
        (errors.BadRequest("params.n", "is missing"), 2),
        (errors.Busy("the queue", 500), 1),
        (errors.NoSuchService("q"), 1),
        (errors.InternalError("ref"), 1),
        (errors.Cancelled("task-1"), 1),  # by somebody else
        (errors.MediaNotPresent("x.hdb"), 1),
    ],
)
def test_a_fault_has_its_code_and_its_sentence(cli: Any, fault: Fault, code: int) -> None:
    ran = cli("pause", "myfirstvm", VM_pause=fault)
    assert ran.code == code
    assert ran.out == ""
    assert ran.err.startswith("xenops-cli: ")
    assert str(fault) in ran.err
    assert ran.err.count("\n") == 1


def test_every_known_fault_has_a_documented_code() -> None:
    for cls in Fault.known.values():
        assert code_of(cls.__new__(cls)) in MEANINGS
    assert [line.split()[0] for line in legend().splitlines()[1:]] == [str(code.value) for code in Exit]


def test_a_fault_of_the_task_counts_like_one_of_the_call(cli: Any, fake: Any) -> None:
    fault = fake.FaultRecord(**errors.encode(errors.BadPowerState("Halted", "Running")))
    failed = fake.Task(id="task-1", operation="x", ctime=0, state=fake.Failed(fault=fault))
    assert cli("pause", "myfirstvm", Task_wait=failed).code == 4


def test_with_json_a_program_gets_the_fault_too(cli: Any) -> None:
    ran = cli("pause", "myfirstvm", "--json", VM_pause=errors.BadPowerState("Halted", "Running"))
    fault = json.loads(ran.out)["fault"]
    assert (fault["name"], fault["fields"]) == ("BadPowerState", {"actual": "Halted", "expected": "Running"})
    assert fault["message"] in ran.err
    ran = cli("vm-stat", "nobody", "--json")
    assert (ran.code, json.loads(ran.out)["fault"]["name"]) == (3, "Complaint")


def test_an_unreachable_stack_says_how_to_start_one(cli: Any) -> None:
    ran = cli("list", VM_list=errors.NoSuchService("xenops.h.simulator"))
    assert ran.code == 1
    assert "make run" in ran.err
    assert "xenops-cli where" in ran.err


def test_no_stack_at_all_says_where_it_was_looked_for(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("XENOPS_WHERE", str(tmp_path / "where.json"))
    ran = cli("where")
    assert ran.code == 1
    assert str(tmp_path / "where.json") in ran.err
    assert "make run" in ran.err


def test_a_mistake_of_our_own_has_no_traceback_unless_asked_for(cli: Any) -> None:
    ran = cli("list", VM_list=[])
    assert ran.code == 0

    async def broken() -> Any:
        return "no list of machines"

    ran = cli("list", VM_list=broken)
    assert ran.code in (1, 2)
    assert "Traceback" not in ran.err


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["lits"], "did you mean list?"),
        (["start"], "the following arguments are required: VM"),
        (["list", "-o", "nmae"], "no column 'nmae'; there are name, domid"),
        (["shutdown", "x", "--timeout", "soon"], "is not a number of seconds"),
        (["shutdown", "x", "--timeout=-1"], "is not a number of seconds"),
        (["shutdown", "x", "--timeout", "nan"], "is not a number of seconds"),
        (["mem-set", "x", "lots"], "write 256 (MiB)"),
        (["mem-set", "x", "99999999999999"], "more memory than a machine can have"),
        (["vcpu-set", "x", "0"], "is not a whole number of one or more"),
        (["suspend", "x"], "--block-device/--file"),
        (["cd-eject", "x"], "write VM.DEV"),
        (["list", "--jso"], "unrecognized arguments"),
    ],
)
def test_a_usage_error_is_one_line_and_2(cli: Any, argv: list[str], hint: str) -> None:
    ran = cli(*argv)
    assert ran.code == 2
    assert ran.err.startswith("xenops-cli: ")
    assert hint in ran.err
    assert ran.err.count("\n") == 1


def test_a_hostile_text_cannot_move_the_cursor(cli: Any) -> None:
    ran = cli("pause", "myfirstvm", VM_pause=errors.DeviceDetachRejected("VBD", "x", "\x1b[2J\x07"))
    assert "\x1b" not in ran.err
    assert "\x07" not in ran.err


def test_advice_follows_the_sentence() -> None:
    assert sentence_of(errors.BadPowerState("Halted", "Running")).endswith("; `xenops-cli list` shows the states")
    assert sentence_of(Complaint("as it is")) == "as it is"


def test_events_end_when_the_time_is_up(cli: Any) -> None:
    assert cli("events", "--timeout", "0.1").code == 0
    ran = cli("events", "--timeout", "0.1", "--count", "1000000")
    assert ran.code == 124
    assert "more events were expected" in ran.err


def test_a_machine_that_does_not_start_is_registered_nevertheless(cli: Any, fake: Any, tmp_path: Any) -> None:
    path = tmp_path / "vm.cfg"
    path.write_text("name='myfirstvm'\ntype='hvm'\n", encoding="utf-8")
    ran = cli("create", path, VM_start=errors.Busy("the queue", 500))
    assert ran.code == 1
    assert f"stays registered as {fake.FIRST}" in ran.err


def test_a_console_and_a_document_do_not_go_together(cli: Any, world: Any) -> None:
    assert cli("start", "myfirstvm", "--console", "--json").code == 2
    assert "VM.start" not in [method for method, _ in world.asked]
