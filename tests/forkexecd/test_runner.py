# SPDX-License-Identifier: Apache-2.0
"""Real programs: fed, read, timed, stopped, reaped; nothing of them stays behind."""

import asyncio
import os
import re
import select
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from forkexecd import posix
from forkexecd.metrics import Metrics
from forkexecd.runner import Runner
from xenops.errors import Busy, ProgramFailed
from xenops.types.process import Ended, Program

PYTHON = sys.executable


@asynccontextmanager
async def running(
    *, limit: int = 64, kill_after_s: float = 5.0, registry: CollectorRegistry | None = None
) -> AsyncIterator[Runner]:
    guard = posix.Guard()
    runner = Runner(guard, Metrics(registry or CollectorRegistry()), limit=limit, kill_after_s=kill_after_s)
    try:
        yield runner
    finally:
        await runner.close()
        guard.close()


def run(program: Program, *, kill_after_s: float = 5.0) -> Ended:
    async def main() -> Ended:
        async with running(kill_after_s=kill_after_s) as runner:
            return await runner.run(program)

    return asyncio.run(main())


def sh(script: str, **more: object) -> Program:
    return Program(argv=["/bin/sh", "-c", script], **more)  # type: ignore[arg-type]


async def until(path: Path) -> str:
    """The first line that a program writes to a named pipe that the test has made."""
    reader = asyncio.StreamReader()
    file = open(os.open(path, os.O_RDWR | os.O_NONBLOCK), "rb", buffering=0)  # noqa: SIM115, ASYNC230
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), file
    )
    try:
        return (await reader.readline()).decode().strip()
    finally:
        transport.close()


@pytest.fixture
def told(tmp_path: Path) -> Path:
    """A named pipe in which a program says that it has come so far."""
    path = tmp_path / "told"
    os.mkfifo(path)
    return path


def has_ended(pid: int, within_s: float = 10.0) -> bool:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], within_s)[0])
    finally:
        os.close(pidfd)


def test_code_output_stdin_environment_directory_and_session(tmp_path: Path) -> None:
    script = 'read line; echo "$line,$GREETING,$(pwd),$HOME"; echo bad >&2; exit 3'
    ended = run(sh(script, env={"GREETING": "good day"}, stdin=b"first\nsecond\n", cwd=str(tmp_path)))
    assert (ended.code, ended.timed_out) == (3, False)
    assert ended.stdout.decode() == f"first,good day,{tmp_path},\n"
    assert ended.stderr == b"bad\n"
    assert 0 < ended.duration_s < 50


def test_the_environment_holds_what_was_given_and_nothing_else() -> None:
    ended = run(Program(argv=["/usr/bin/env"], env={"A": "1"}))
    assert ended.stdout == b"A=1\n"


def test_a_program_has_a_session_of_its_own_and_only_three_files() -> None:
    leak = os.open("/dev/null", os.O_RDONLY)
    os.set_inheritable(leak, True)
    try:
        code = "import os; print(os.getsid(0) == os.getpid(), sorted(map(int, os.listdir('/proc/self/fd')))[:-1])"
        assert run(Program(argv=[PYTHON, "-I", "-c", code])).stdout == b"True [0, 1, 2]\n"
    finally:
        os.close(leak)


def test_a_signal_is_told_from_a_code() -> None:
    ended = run(sh("kill -9 $$"))
    assert ended.signal == signal.SIGKILL
    assert not isinstance(ended.code, int)


def test_a_flood_is_read_to_its_end_and_kept_to_the_limit() -> None:
    code = "import os\nfor n in range(400): os.write(1, b'x' * 50000); os.write(2, b'y' * 100)"
    ended = run(Program(argv=[PYTHON, "-I", "-c", code], output_limit=1000))
    assert ended.code == 0
    assert (ended.stdout, ended.stdout_truncated) == (b"x" * 1000, True)
    assert (ended.stderr, ended.stderr_truncated) == (b"y" * 1000, True)


def test_a_large_stdin_comes_back_whole() -> None:
    sent = os.urandom(3 << 20)
    ended = run(Program(argv=["/bin/cat"], stdin=sent, output_limit=4 << 20))
    assert ended.stdout == sent
    assert not ended.stdout_truncated


def test_a_program_that_does_not_read_its_stdin_is_no_trouble() -> None:
    assert run(sh("exec true", stdin=b"z" * (1 << 20))).code == 0


def test_over_its_time_a_program_is_asked_to_stop() -> None:
    ended = run(sh("trap 'echo goodbye; exit 7' TERM; while :; do sleep 0.05; done", timeout_s=2.0))
    assert (ended.timed_out, ended.code, ended.stdout) == (True, 7, b"goodbye\n")


def test_who_ignores_sigterm_is_killed_with_its_whole_group() -> None:
    # A new interpreter of each would cost a second; the shell's child inherits the ignored signal.
    ended = run(sh("trap '' TERM; sleep 1000 & echo $!; wait", timeout_s=2.0), kill_after_s=0.3)
    assert (ended.timed_out, ended.signal) == (True, signal.SIGKILL)
    assert has_ended(int(ended.stdout))


def test_a_descendant_that_holds_the_pipe_does_not_hold_the_answer() -> None:
    ended = run(sh("sleep 1000 & echo $!"))
    assert ended.code == 0
    assert ended.duration_s < 30
    assert has_ended(int(ended.stdout))


def test_a_daemon_with_a_session_of_its_own_lives_on() -> None:
    ended = run(sh("setsid sleep 1000 & echo $!"))
    pid = int(ended.stdout)
    try:
        # The shell may end, and its group be killed, before setsid has run: then there is no daemon to speak of.
        alive = not has_ended(pid, 0)
        if alive:
            assert os.getsid(pid) == pid
    finally:
        if not has_ended(pid, 0):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda path: path, "no such file"),
        (lambda path: path.mkdir() or path, "directory"),
        (lambda path: _script(path, b"#!/bin/sh\n", 0o644), "not executable"),
        (lambda path: _script(path, b"\0\1\2\3", 0o755), "neither a binary"),
        (lambda path: _script(path, b"#!/no/such/interpreter\n", 0o755), "interpreter"),
    ],
)
def test_what_cannot_be_started_is_named(tmp_path: Path, make: Callable[[Path], Path], says: str) -> None:
    path = make(tmp_path / "program")
    with pytest.raises(ProgramFailed, match=says) as failed:
        run(Program(argv=[str(path)]))
    assert failed.value.program == str(path)


def _script(path: Path, text: bytes, mode: int) -> Path:
    path.write_bytes(text)
    path.chmod(stat.S_IFREG | mode)
    return path


def test_a_missing_working_directory_is_named() -> None:
    with pytest.raises(ProgramFailed, match=r"working directory /no/such"):
        run(Program(argv=["/bin/true"], cwd="/no/such"))


def test_too_long_an_argument_is_named() -> None:
    with pytest.raises(ProgramFailed, match=r"(?i)too long"):
        run(Program(argv=["/bin/true", "x" * (1 << 20)]))


def test_beyond_the_limit_is_busy_and_room_comes_back() -> None:
    async def main() -> None:
        async with running(limit=2) as runner:
            first = [asyncio.create_task(runner.run(sh("read x", stdin=b"\n", timeout_s=20))) for _ in range(2)]
            await asyncio.sleep(0)
            with pytest.raises(Busy):
                await runner.run(sh("true"))
            await asyncio.gather(*first)
            assert (await runner.run(sh("true"))).code == 0

    asyncio.run(main())


def test_programs_run_side_by_side() -> None:
    """Each of them waits until all are there, so that one after the other they would never end."""

    async def main() -> list[Ended]:
        barrier = "import socket,sys; s=socket.create_connection(('127.0.0.1', int(sys.argv[1]))); s.recv(1)"
        arrived: list[asyncio.StreamWriter] = []

        async def arrive(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            arrived.append(writer)
            if len(arrived) == 12:
                for one in arrived:
                    one.close()

        server = await asyncio.start_server(arrive, "127.0.0.1", 0)
        port = str(server.sockets[0].getsockname()[1])
        async with server, running() as runner:
            program = Program(argv=[PYTHON, "-I", "-c", barrier, port], timeout_s=40)
            return await asyncio.gather(*(runner.run(program) for _ in range(12)))

    assert [ended.code for ended in asyncio.run(main())] == [0] * 12


def test_a_caller_that_goes_takes_its_program_along(told: Path) -> None:
    async def main() -> int:
        async with running() as runner:
            task = asyncio.create_task(runner.run(sh(f"echo $$ > {told}; exec sleep 1000")))
            pid = int(await until(told))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            return pid

    assert has_ended(asyncio.run(main()), 0)


def test_close_stops_everything_and_its_callers_learn_why(told: Path) -> None:
    async def main() -> None:
        async with running(kill_after_s=0.2) as runner:
            task = asyncio.create_task(runner.run(sh(f"trap '' TERM; echo $$ > {told}; while :; do sleep 1; done")))
            pid = int(await until(told))
            await runner.close()
            assert has_ended(pid, 0)
            with pytest.raises(ProgramFailed, match="stopping"):
                await task
            with pytest.raises(ProgramFailed, match="stopping"):
                await runner.run(sh("true"))

    asyncio.run(main())


def test_no_zombie_and_no_file_stays_behind() -> None:
    async def main() -> None:
        async with running(kill_after_s=0.2) as runner:
            await runner.run(sh("true"))
            before = sorted(os.listdir("/proc/self/fd"))
            programs = [sh("echo a"), sh("exit 3", stdin=b"q" * 100000), sh("trap '' TERM; sleep 5", timeout_s=0.1)]
            await asyncio.gather(*(runner.run(program) for program in programs * 5))
            for _ in range(5):
                with pytest.raises(ProgramFailed):
                    await runner.run(Program(argv=["/no/such/program"]))
            assert sorted(os.listdir("/proc/self/fd")) == before

    def children() -> str:
        return Path(f"/proc/self/task/{os.getpid()}/children").read_text()

    known = children()
    asyncio.run(main())
    assert children() == known


def test_killed_itself_forkexecd_leaves_no_program_behind(told: Path) -> None:
    code = f"""
import asyncio, sys
from prometheus_client import CollectorRegistry
from forkexecd import posix
from forkexecd.metrics import Metrics
from forkexecd.runner import Runner
from xenops.types.process import Program

async def main():
    runner = Runner(posix.Guard(), Metrics(CollectorRegistry()))
    script = "trap '' TERM; while :; do sleep 1; done"
    running = asyncio.create_task(runner.run(Program(argv=["/bin/sh", "-c", script])))
    await asyncio.sleep(0)
    with open("{told}", "w") as told:
        print(runner.diagnostics()[0]["pid"], file=told)
    await running

asyncio.run(main())
"""
    with subprocess.Popen([PYTHON, "-I", "-c", code]) as forkexecd:
        pid = int(asyncio.run(asyncio.wait_for(until(told), 30)))
        forkexecd.kill()
        forkexecd.wait()
        assert has_ended(pid)


def test_a_guard_that_was_killed_is_replaced() -> None:
    guard = posix.Guard()
    first = guard._process
    first.kill()
    first.wait()
    sleeper = subprocess.Popen(["/bin/sleep", "1000"], start_new_session=True)
    try:
        guard.watch(sleeper.pid)
        assert guard._process.pid != first.pid
        guard.close()  # as when forkexecd dies: the pipe ends
        assert sleeper.wait(10) == -signal.SIGKILL
    finally:
        sleeper.kill()
        sleeper.wait()


def test_without_descriptors_nothing_is_left_running(told: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(pid: int, flags: int = 0) -> int:
        raise OSError(24, "Too many open files")

    before = os.listdir("/proc/self/fd")
    with monkeypatch.context() as patched:
        patched.setattr(os, "pidfd_open", none_left)
        with pytest.raises(ProgramFailed, match="Too many open files"):
            posix.spawn(sh("sleep 1000"))
    assert os.listdir("/proc/self/fd") == before
    assert "Z" not in "".join(_states())


def _states() -> list[str]:
    pids = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in pids]


def test_metrics_count_by_outcome() -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with running(limit=1, kill_after_s=0.2, registry=registry) as runner:
            await runner.run(sh("true"))
            await runner.run(sh("false"))
            await runner.run(sh("kill -9 $$"))
            await runner.run(sh("sleep 1000", timeout_s=0.1))
            with pytest.raises(ProgramFailed):
                await runner.run(Program(argv=["/no/such"]))

    asyncio.run(main())
    counted = {
        outcome: registry.get_sample_value("forkexecd_programs_total", {"outcome": outcome})
        for outcome in ("ok", "failed", "signalled", "timed_out", "not_started")
    }
    assert counted == dict.fromkeys(counted, 1.0)
    assert registry.get_sample_value("forkexecd_running") == 0
    assert registry.get_sample_value("forkexecd_program_duration_seconds_count") == 4
    assert registry.get_sample_value("forkexecd_spawn_seconds_count") == 4


def test_the_log_holds_no_argument_environment_or_output(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    run(Program(argv=["/bin/echo", "secret-a"], env={"B": "secret-b"}, stdin=b"secret-c"))
    with pytest.raises(ProgramFailed):
        run(Program(argv=["/no/such", "secret-d"], env={"B": "secret-e"}))
    assert re.search(r"echo with 1 arguments started", caplog.text)
    assert "secret" not in caplog.text


def test_a_program_that_the_kernel_holds_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forkexecd.runner._HELD_S", 0.1)

    async def main() -> None:
        async with running(kill_after_s=0.1) as runner:
            with monkeypatch.context() as patched:
                patched.setattr(posix.Child, "signal", lambda self, number: None)
                with pytest.raises(ProgramFailed, match="kernel has not let it go"):
                    await runner.run(sh("exec sleep 1", timeout_s=0.1))

    began = time.monotonic()
    asyncio.run(main())  # the runner still waits for it, and reaps it
    assert time.monotonic() - began >= 0.5
