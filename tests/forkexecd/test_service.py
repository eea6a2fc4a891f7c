# SPDX-License-Identifier: Apache-2.0
"""forkexecd as others see it: over a bus, and as a process."""

import asyncio
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry

from forkexecd import posix
from forkexecd.api import check
from forkexecd.config import ForkexecdSettings
from forkexecd.main import serve
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import Message
from xenops.errors import BadRequest, Busy, ProgramFailed
from xenops.events import Change, Event, Kind
from xenops.interfaces.forkexec import FORKEXEC
from xenops.interfaces.xenops.general import General
from xenops.rpc import stub
from xenops.service.settings import SettingsError
from xenops.types.process import Program

COMMAND = [sys.executable, "-I", "-c", "import sys; from forkexecd.main import main; sys.exit(main())"]
QUEUE = "forkexec.here"


@asynccontextmanager
async def served(stop: asyncio.Event, *, max_programs: int = 8) -> AsyncIterator[tuple[MemoryBus, list[Event]]]:
    """A client's bus on which forkexecd serves, and the events that came; stops it at the end."""
    switch, events, begun = MemorySwitch(), [], asyncio.Event()

    def receive(message: Message) -> None:
        events.append(msgspec.msgpack.decode(message.body, type=Event))
        begun.set()

    ours, theirs, guard = MemoryBus(switch), MemoryBus(switch), posix.Guard()
    await ours.connect()
    await theirs.connect()
    await ours.subscribe(["here.forkexecd.service.#"], receive)
    settings = ForkexecdSettings(host="here", max_programs=max_programs, kill_after=0.3)
    service = asyncio.create_task(serve(theirs, settings, guard, stop, registry=CollectorRegistry()))
    try:
        await asyncio.wait_for(begun.wait(), 20)
        yield ours, events
    finally:
        stop.set()
        await service
        await asyncio.sleep(0)
        await theirs.close()
        await ours.close()
        guard.close()


async def until_one_runs(bus: MemoryBus) -> None:
    """Requests are answered side by side, and so a program that was asked for first may start after a question."""
    for _ in range(100):
        if (await stub(General, bus, QUEUE).get_diagnostics())["programs"]:
            return
    raise AssertionError("the program has not started")


def test_a_program_runs_over_the_bus_and_the_service_says_when_it_is_there() -> None:
    async def main() -> list[Event]:
        async with served(asyncio.Event()) as (bus, events):
            ended = await stub(FORKEXEC, bus, QUEUE).run(Program(argv=["/bin/echo", "hello"]))
            assert (ended.code, ended.stdout) == (0, b"hello\n")
            info = await stub(General, bus, QUEUE).query()
            assert (info.name, info.host, info.queue) == ("forkexecd", "here", QUEUE)
            assert events[0].service == msgspec.to_builtins(info)
            assert (await stub(General, bus, QUEUE).get_diagnostics()) == {"programs": []}
        return events

    events = asyncio.run(main())
    assert [(event.kind, event.change, event.id) for event in events] == [
        (Kind.SERVICE, Change.ADDED, QUEUE),
        (Kind.SERVICE, Change.REMOVED, QUEUE),
    ]


@pytest.mark.parametrize(
    ("program", "path"),
    [
        (Program(argv=["echo"]), "params.program.argv[0]"),
        (Program(argv=["/bin/echo", "a\0b"]), "params.program.argv[1]"),
        (Program(argv=["/bin/echo"], cwd="tmp"), "params.program.cwd"),
        (Program(argv=["/bin/echo"], env={"A=B": "c"}), "params.program.env"),
        (Program(argv=["/bin/echo"], env={"": "c"}), "params.program.env"),
        (Program(argv=["/bin/echo"], env={"A": "c\0"}), "params.program.env.A"),
    ],
)
def test_what_is_wrong_with_a_request_is_named(program: Program, path: str) -> None:
    async def main() -> None:
        async with served(asyncio.Event()) as (bus, _):
            with pytest.raises(BadRequest) as refused:
                await stub(FORKEXEC, bus, QUEUE).run(program)
            assert refused.value.path == path

    asyncio.run(main())


@given(
    argv=st.lists(st.text(max_size=8), min_size=1, max_size=3),
    env=st.dictionaries(st.text(max_size=4), st.text(max_size=4), max_size=2),
    cwd=st.sampled_from(["/", "", "tmp", "/\0"]),
)
def test_every_program_is_accepted_or_refused_by_field(argv: list[str], env: dict[str, str], cwd: str) -> None:
    good = (
        argv[0].startswith("/")
        and cwd == "/"
        and "\0" not in "".join([*argv, *env, *env.values()])
        and all(name and "=" not in name for name in env)
    )
    with nullcontext() if good else pytest.raises(BadRequest, match=r"^params\.program\."):
        check(Program(argv=argv, env=env, cwd=cwd))


def test_a_missing_program_is_a_named_fault_at_the_caller() -> None:
    async def main() -> None:
        async with served(asyncio.Event()) as (bus, _):
            with pytest.raises(ProgramFailed, match="no such file"):
                await stub(FORKEXEC, bus, QUEUE).run(Program(argv=["/no/such"]))

    asyncio.run(main())


def test_beyond_the_limit_is_busy_at_the_caller() -> None:
    async def main() -> None:
        async with served(asyncio.Event(), max_programs=1) as (bus, _):
            run = stub(FORKEXEC, bus, QUEUE).run
            first = asyncio.create_task(run(Program(argv=["/bin/sleep", "1000"])))
            await until_one_runs(bus)
            with pytest.raises(Busy):
                await run(Program(argv=["/bin/true"]))
            first.cancel()

    asyncio.run(main())


def test_a_repeated_message_runs_its_program_once(tmp_path: Path) -> None:
    target = tmp_path / "runs"
    body = msgspec.msgpack.encode(
        {
            "method": "FORKEXEC.run",
            "params": {"program": {"argv": ["/bin/sh", "-c", f"echo ran >> {target}; echo $$"]}},
        }
    )

    async def main() -> list[bytes]:
        async with served(asyncio.Event()) as (bus, _):

            def again() -> asyncio.Task[Message]:
                return asyncio.create_task(bus.call(QUEUE, Message(body, message_id="one"), timeout_s=30))

            together = await asyncio.gather(again(), again())
            later = await again()
            return [reply.body for reply in (*together, later)]

    replies = asyncio.run(main())
    assert len(set(replies)) == 1
    assert target.read_text() == "ran\n"


def test_stopping_ends_what_runs_and_the_caller_learns_it() -> None:
    async def main() -> None:
        stop = asyncio.Event()
        async with served(stop) as (bus, _):
            call = asyncio.create_task(
                stub(FORKEXEC, bus, QUEUE).run(
                    Program(argv=["/bin/sh", "-c", "trap '' TERM; while :; do sleep 1; done"])
                )
            )
            await until_one_runs(bus)
            stop.set()
            with pytest.raises(ProgramFailed, match="stopping"):
                await call

    asyncio.run(main())


def start(*flags: str, env: dict[str, str] | None = None) -> "subprocess.Popen[str]":
    environ = {"PATH": os.environ["PATH"], **(env or {})}
    return subprocess.Popen([*COMMAND, *flags], stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ)


def test_sigterm_ends_the_process_while_the_switch_is_away() -> None:
    with start("--amqp-url", "amqp://127.0.0.1:1/%2F", "--host", "here") as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        assert "metrics on http://127.0.0.1:" in line
        process.send_signal(signal.SIGTERM)
        _, rest = process.communicate(timeout=30)
        assert process.returncode == 0, rest


def test_help_explains_the_keys() -> None:
    with start("--help") as process:
        text, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    for key in ("--amqp-url-file", "--host", "--metrics-port", "--max-programs", "--kill-after", "--log-level"):
        assert key in text


@pytest.mark.parametrize(
    ("text", "mode", "says"),
    [
        ("amqp://me:secret@127.0.0.1/%2F", 0o644, "chmod 600"),
        ("", 0o600, "no URL"),
        ("http://me:secret@127.0.0.1/", 0o600, "no URL"),
        ("amqp://me:secret@127.0.0.1:nine/", 0o600, "no URL"),
        (None, 0o600, "cannot be read"),
    ],
)
def test_a_bad_url_file_is_refused_without_showing_its_secret(
    tmp_path: Path, text: str | None, mode: int, says: str
) -> None:
    path = tmp_path / "url"
    if text is not None:
        path.write_text(text)
        path.chmod(stat.S_IFREG | mode)
    with pytest.raises(SettingsError, match=says) as refused:
        ForkexecdSettings(amqp_url_file=str(path))
    assert "secret" not in str(refused.value)


def test_a_good_url_file_wins(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.touch(0o600)
    path.write_text("amqp://me:secret@127.0.0.1:5673/%2F\n")
    assert ForkexecdSettings(amqp_url_file=str(path)).url() == "amqp://me:secret@127.0.0.1:5673/%2F"


def test_a_mistake_in_the_settings_is_exit_code_2(tmp_path: Path) -> None:
    with start(env={"FORKEXECD_AMQP_URL_FILE": str(tmp_path / "none")}) as process:
        _, text = process.communicate(timeout=30)
    assert process.returncode == 2
    assert "amqp-url-file" in text
    assert "Traceback" not in text


def test_a_metrics_port_that_is_taken_is_said_clearly() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        start("--metrics-port", str(taken.getsockname()[1]), "--host", "here") as process,
    ):
        _, text = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "choose another --metrics-host or --metrics-port" in text
    assert "Traceback" not in text
