# SPDX-License-Identifier: Apache-2.0
"""The console: what a script hears, and what becomes of a person's terminal."""

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.terminal import Terminal
from xenops.errors import DoesNotExist, NoSuchService
from xenops_cli.console.listening import Listening

HERE = Path(__file__).parent
PATIENCE_S = 20.0


@given(st.binary(max_size=60), st.lists(st.integers(1, 7), max_size=30), st.sampled_from([None, "ab", "a", "\n"]))
def test_any_split_of_the_bytes_is_heard_alike(data: bytes, cuts: list[int], expect: str | None) -> None:
    data = data + b"xab\n"
    whole, parts = Listening(expect=expect, lines=3), Listening(expect=expect, lines=3)
    heard = whole.receive(data)
    pieces, at = b"", 0
    for cut in [*cuts, len(data)]:
        pieces += parts.receive(data[at : at + cut])
        at += cut
    assert (pieces, parts.ended, parts.text) == (heard, whole.ended, whole.text)


def test_listening_ends_with_the_text_that_was_expected() -> None:
    listening = Listening(expect="login:")
    assert listening.receive(b"debian log") == b"debian log"
    assert listening.ended == ""
    assert listening.receive(b"in: root") == b"in:"
    assert listening.ended == "expected"
    assert listening.receive(b"more") == b""


def test_a_script_hears_what_it_expects(cli: Any) -> None:
    ran = cli("console", "myfirstvm", "--expect", "login:")
    assert (ran.code, ran.out) == (0, "hello\r\nlogin:")


def test_a_script_hears_so_many_lines(cli: Any, world: Any) -> None:
    world.spoken = [b"one\r\ntw", b"o\r\nthree\r\n"]  # the machine reboots in between
    ran = cli("console", "myfirstvm", "--lines", "2", "--json")
    assert json.loads(ran.out) == {
        "vm": "11111111-1111-4111-8111-111111111111",
        "ended": "lines",
        "text": "one\r\ntwo\r\n",
    }


def test_what_never_comes_is_a_timeout(cli: Any, world: Any) -> None:
    world.hold = True
    ran = cli("console", "myfirstvm", "--expect", "never", "--timeout", "0.2")
    assert ran.code == 124
    assert "'never' did not appear" in ran.err


def test_a_timeout_alone_is_no_failure(cli: Any, world: Any) -> None:
    world.hold = True
    ran = cli("console", "myfirstvm", "--timeout", "0.2")
    assert (ran.code, ran.out) == (0, "hello\r\nlogin: ")


def test_a_line_can_be_typed_first(cli: Any, world: Any) -> None:
    world.hold = True
    ran = cli("console", "myfirstvm", "--send", "uname", "--expect", "UNAME")
    assert ran.code == 0
    assert world.typed == b"uname\r"


def test_a_machine_that_is_off_has_no_console(cli: Any, world: Any, fake: Any) -> None:
    async def refuse(vm: str, protocol: Any) -> Any:
        raise DoesNotExist("console", vm)

    world.console = refuse
    ran = cli("console", "other", "--timeout", "10", VM_stat=fake.MACHINES[1])
    assert ran.code == 4
    assert "`xenops-cli start` turns it on" in ran.err


def test_listening_ends_when_the_machine_is_off(cli: Any, fake: Any) -> None:
    ran = cli("console", "myfirstvm", "--timeout", "10", "--json", VM_stat=fake.MACHINES[1])
    assert (ran.code, json.loads(ran.out)["ended"]) == (0, "halted")


def test_a_console_service_that_is_down_is_an_error(cli: Any, world: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenops_cli.console.attach.LONGEST_PAUSE_S", 0.05)

    async def down(vm: str, protocol: Any) -> Any:
        raise NoSuchService("console.h")

    world.console = down
    ran = cli("console", "myfirstvm", "--timeout", "10")
    assert ran.code == 1
    assert "does not answer" in ran.err
    assert "console.h" in ran.err


def test_without_a_viewer_the_picture_has_an_address(cli: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DISPLAY", raising=False)
    ran = cli("console", "myfirstvm", "--vnc")
    assert ran.code == 0
    assert "a VNC viewer can connect once, within 30 s, to 127.0.0.1::" in ran.out


def test_a_viewer_is_run_with_the_address(cli: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    viewer = tmp_path / "vncviewer"
    viewer.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/seen\n', encoding="utf-8")
    viewer.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("DISPLAY", ":0")
    ran = cli("console", "myfirstvm", "--vnc")
    assert (ran.code, ran.out) == (0, "")
    assert (tmp_path / "seen").read_text(encoding="utf-8").startswith("127.0.0.1::")


@pytest.fixture
def terminal() -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def open_one(*argv: str, **environ: str) -> Terminal:
        argv = (sys.executable, str(HERE / "fake.py"), *argv)
        opened.append(Terminal(list(argv), {**os.environ, "TERM": "xterm", **environ}))
        return opened[-1]

    yield open_one
    for each in opened:
        each.close()


def test_a_person_talks_to_the_guest_across_a_reboot_and_leaves(terminal: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    attached = terminal("console", "myfirstvm", FAKE_REPORT=str(report))
    attached.see("first life")
    attached.see("second life")
    attached.type(b"abc\x03")  # Ctrl-C belongs to the guest
    attached.see("ABC\x03")
    assert not attached.is_as_before()
    attached.type(b"\x1d")
    assert attached.ends() == 0
    assert attached.is_as_before()
    assert json.loads(report.read_text(encoding="utf-8"))["typed"] == "abc\x03"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_gives_the_terminal_back(terminal: Any, number: signal.Signals) -> None:
    attached = terminal("console", "myfirstvm")
    attached.see("second life")
    attached.process.send_signal(number)
    assert attached.ends() == 128 + number
    assert attached.is_as_before()


def test_ctrl_c_cancels_the_task(terminal: Any, tmp_path: Path) -> None:
    report = tmp_path / "report.json"
    waiting = terminal("start", "myfirstvm", FAKE_ENDLESS="cancellable", FAKE_REPORT=str(report))
    waiting.see("waiting")
    waiting.type(b"\x03")
    waiting.see("cancelling the task task-1")
    assert waiting.ends() == 130
    assert "Task.cancel" in json.loads(report.read_text(encoding="utf-8"))["asked"]


def test_a_second_ctrl_c_leaves_the_task_to_itself(terminal: Any) -> None:
    waiting = terminal("start", "myfirstvm", FAKE_ENDLESS="stubborn")
    waiting.see("waiting")
    waiting.type(b"\x03")
    waiting.see("cancelling the task task-1")
    waiting.type(b"\x03")
    assert waiting.ends() == 130


def test_the_bar_is_drawn_and_taken_away(terminal: Any) -> None:
    ran = terminal("start", "myfirstvm")
    ran.see("[########################] 100%")
    assert ran.ends() == 0
    ran.see("\r\x1b[K")


@pytest.mark.parametrize(
    ("environ", "painted"), [({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)]
)
def test_colour_is_for_terminals_that_want_it(terminal: Any, environ: dict[str, str], painted: bool) -> None:
    listed = terminal("list", **environ)
    listed.see("Halted")
    assert ("\x1b[32mRunning" in listed.screen) is painted


def test_pipes_are_carried_until_the_program_is_ended() -> None:
    """Standard input goes to the guest, what the guest says comes out; the end of the input is no reason to leave."""
    process = subprocess.Popen(
        [sys.executable, str(HERE / "fake.py"), "console", "myfirstvm"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, "FAKE_LIVES": "1"},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(b"typed\n")
        process.stdin.close()
        heard = b""
        while b"TYPED" not in heard:
            ready, _, _ = select.select([process.stdout], [], [], PATIENCE_S)
            assert ready, heard
            heard += os.read(process.stdout.fileno(), 4096)
        process.terminate()
        assert process.wait(PATIENCE_S) == 143
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
