# SPDX-License-Identifier: Apache-2.0
"""Programs from their start to their end: fed, read, timed, stopped and reaped.

No argument and nothing of an environment or of the output is ever logged: they may be secrets.

A program's life:

    started ──ends──────────────────────────────> ended ─> the rest of its process group killed, pipes drained, reaped
       └──time over, or asked to stop──> SIGTERM ──┘  (SIGKILL after `kill_after_s`)

A descendant that is to live on must take a session of its own (setsid), as daemons do.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from enum import Enum
from typing import Any

from forkexecd import posix
from forkexecd.metrics import Metrics
from forkexecd.output import Output
from xenops.errors import Busy, ProgramFailed
from xenops.types.process import Ended, Program
from xenops.types.record import UNSET

log = logging.getLogger(__name__)
_HELD_S = 5.0  # how long after SIGKILL a caller waits for a program that the kernel does not let go


class Why(Enum):
    """What brought a program's life to its end."""

    ENDED = "ended"
    TIMED_OUT = "timed out"
    STOPPED = "stopped"


class Runner:
    """Runs at most `limit` programs side by side."""

    def __init__(self, guard: posix.Guard, metrics: Metrics, *, limit: int = 64, kill_after_s: float = 5.0) -> None:
        self._guard, self._metrics = guard, metrics
        self._limit, self._kill_after_s = limit, kill_after_s
        self._lives: dict[asyncio.Task[Ended], _Life] = {}
        self._closing = False

    async def run(self, program: Program) -> Ended:
        """Run a program to its end; if the caller is cancelled, the program is stopped."""
        if self._closing:
            raise ProgramFailed(program.argv[0], "forkexecd is stopping")
        if len(self._lives) >= self._limit:
            self._metrics.programs.labels("busy").inc()
            raise Busy(f"forkexecd, which runs {self._limit} programs at once,", 1000)
        life = self._start(program)
        task = asyncio.create_task(life.live())
        self._lives[task] = life
        self._metrics.running.set(len(self._lives))
        task.add_done_callback(self._buried)
        try:
            async with asyncio.timeout(program.timeout_s + self._kill_after_s + _HELD_S):
                ended = await asyncio.shield(task)
        except TimeoutError:
            raise ProgramFailed(program.argv[0], "it was killed, but the kernel has not let it go yet") from None
        finally:
            life.settle(Why.STOPPED)  # if the caller has gone; too late to matter otherwise
        if life.why is Why.STOPPED:
            raise ProgramFailed(program.argv[0], "it was stopped before its end, as forkexecd is stopping")
        return ended

    async def close(self) -> None:
        """Stop every program, refuse new ones, and return when all have ended."""
        self._closing = True
        for life in self._lives.values():
            life.settle(Why.STOPPED)
        while self._lives:
            await asyncio.wait(list(self._lives))

    def diagnostics(self) -> list[dict[str, Any]]:
        """The programs that run now, without their arguments."""
        return [life.describe() for life in self._lives.values()]

    def _start(self, program: Program) -> "_Life":
        began = time.monotonic()
        try:
            child = posix.spawn(program)
        except ProgramFailed as fault:
            self._metrics.programs.labels("not_started").inc()
            log.warning("%s", fault)
            raise
        self._guard.watch(child.pid)
        self._metrics.spawn.observe(time.monotonic() - began)
        log.debug("%s with %d arguments started as %d", child.name, child.arguments, child.pid)
        return _Life(child, program, self._guard.release, began=began, kill_after_s=self._kill_after_s)

    def _buried(self, task: asyncio.Task[Ended]) -> None:
        life = self._lives.pop(task)
        self._metrics.running.set(len(self._lives))
        if task.cancelled() or task.exception() is not None:
            log.error("following %s failed", life.child.name, exc_info=None if task.cancelled() else task.exception())
            return
        ended = task.result()
        self._metrics.duration.observe(ended.duration_s)
        self._metrics.programs.labels(_outcome(ended, life.why)).inc()
        log.info(
            "%s with %d arguments, %d, %s after %.3f s%s",
            life.child.name,
            life.child.arguments,
            life.child.pid,
            f"ended with code {ended.code}" if ended.signal is UNSET else f"was killed by signal {ended.signal}",
            ended.duration_s,
            "" if life.why is Why.ENDED else f" ({life.why.value})",
        )


class _Life:
    """One program; its `live` is never cancelled, it is only asked to stop, and so every child is reaped."""

    def __init__(
        self,
        child: posix.Child,
        program: Program,
        released: Callable[[int], None],
        *,
        began: float,
        kill_after_s: float,
    ) -> None:
        self.child, self._program = child, program
        self._released, self._kill_after_s = released, kill_after_s
        self._loop = asyncio.get_running_loop()
        self._began = began
        self._ended = asyncio.Event()
        self._decided: asyncio.Future[Why] = self._loop.create_future()
        self._stdin = memoryview(program.stdin)
        self._outputs = {child.stdout: Output(program.output_limit), child.stderr: Output(program.output_limit)}
        self._open: set[int] = set(self._outputs)

    @property
    def why(self) -> Why:
        """What ended it."""
        return self._decided.result()

    def settle(self, why: Why) -> None:
        """The first to say why it is over is right."""
        if not self._decided.done():
            self._decided.set_result(why)

    def describe(self) -> dict[str, Any]:
        """For people who debug."""
        return {
            "program": self.child.name,
            "arguments": self.child.arguments,
            "pid": self.child.pid,
            "seconds": round(time.monotonic() - self._began, 3),
            "timeout_s": self._program.timeout_s,
            "stopping": self._decided.done(),
        }

    async def live(self) -> Ended:
        """Follow the program to its end."""
        self._loop.add_reader(self.child.pidfd, self._on_end)
        for fd in self._outputs:
            self._loop.add_reader(fd, self._on_output, fd)
        if self.child.stdin is not None:
            self._loop.add_writer(self.child.stdin, self._on_hungry, self.child.stdin)
        timer = self._loop.call_later(self._program.timeout_s, self.settle, Why.TIMED_OUT)
        await self._decided
        timer.cancel()
        if not self._ended.is_set():
            await self._put_down()
        return self._bury()

    async def _put_down(self) -> None:
        self.child.signal(posix.TERMINATE)
        try:
            async with asyncio.timeout(self._kill_after_s):
                await self._ended.wait()
        except TimeoutError:
            log.warning("%s, %d, ignores SIGTERM: killed", self.child.name, self.child.pid)
            self.child.signal(posix.KILL)
            await self._ended.wait()

    def _bury(self) -> Ended:
        duration_s = time.monotonic() - self._began
        self.child.signal(posix.KILL)  # what is left of its process group; the zombie keeps the number ours
        for fd in list(self._open):
            self._outputs[fd].feed(posix.read_rest(fd))
            self._close_output(fd)
        if self.child.stdin is not None:
            self._close_stdin(self.child.stdin)
        code, signal = self.child.reap()
        self._released(self.child.pid)
        stdout, stderr = self._outputs[self.child.stdout], self._outputs[self.child.stderr]
        return Ended(
            code=UNSET if code is None else code,
            signal=UNSET if signal is None else signal,
            timed_out=self.why is Why.TIMED_OUT,
            stdout=stdout.kept,
            stderr=stderr.kept,
            stdout_truncated=stdout.truncated,
            stderr_truncated=stderr.truncated,
            duration_s=duration_s,
        )

    def _on_end(self) -> None:
        self._loop.remove_reader(self.child.pidfd)
        self._ended.set()
        self.settle(Why.ENDED)

    def _on_output(self, fd: int) -> None:
        untrusted = posix.read(fd)
        if untrusted:
            self._outputs[fd].feed(untrusted)
        elif untrusted is not None:
            self._close_output(fd)

    def _on_hungry(self, fd: int) -> None:
        taken = posix.write(fd, self._stdin)
        self._stdin = self._stdin[taken or 0 :]
        if taken is None or not self._stdin:
            self._close_stdin(fd)

    def _close_output(self, fd: int) -> None:
        self._loop.remove_reader(fd)
        self._open.discard(fd)
        posix.close(fd)

    def _close_stdin(self, fd: int) -> None:
        self._loop.remove_writer(fd)
        self.child.stdin = None
        posix.close(fd)


def _outcome(ended: Ended, why: Why) -> str:
    if why is not Why.ENDED:
        return "timed_out" if why is Why.TIMED_OUT else "stopped"
    if ended.signal is not UNSET:
        return "signalled"
    return "ok" if ended.code == 0 else "failed"
