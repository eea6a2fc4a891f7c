# SPDX-License-Identifier: Apache-2.0
"""One builder process as the daemon sees it: started, spoken with, ended.

It never lets the other side's death, silence or nonsense out as anything but a named fault, and a conversation that
did not come to its end is never resumed: the process is killed.
"""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from xenops.errors import HypercallFailed, ProgramFailed, StepTimedOut, decode
from xenopsd.backends.xen.builder import orders

log = logging.getLogger(__name__)

START_TIMEOUT_S = 60.0  # until Hello; an emulated or overloaded host is slow
FREE_TIMEOUT_S = 60.0  # from the answer until the guest's memory is unmapped
_LAST_WORDS = 2000


def _ignore(done: float) -> None:
    """The progress that nobody asked for."""


async def _refuse_suspend() -> orders.Suspended:
    return orders.Suspended(ok=False)


async def _refuse_log_dirty(enable: bool) -> bool:
    return False


@dataclass(frozen=True)
class Questions:
    """Who answers what a builder asks in the middle of an order."""

    progress: Callable[[float], None] = _ignore
    suspend: Callable[[], Awaitable[orders.Suspended]] = _refuse_suspend
    log_dirty: Callable[[bool], Awaitable[bool]] = _refuse_log_dirty


class BuilderProcess:
    """A builder process that has said Hello."""

    def __init__(self, process: asyncio.subprocess.Process, log_file: Path) -> None:
        self._process = process
        self._log_file = log_file
        self._inbox = orders.Inbox()
        self._received: list[bytes] = []
        self._reader: asyncio.StreamReader
        self._writer: asyncio.StreamWriter
        self.idle = False  # it has no order and holds nothing: whoever wants may have it

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it was alive when the event loop last looked."""
        return self._process.returncode is None and not self._reader.at_eof()

    @classmethod
    async def start(cls, program: Sequence[str], log_file: Path) -> "BuilderProcess":
        """Start one and wait until it is ready. Raises what it said, or `HypercallFailed` when it said nothing."""
        ours, theirs = socket.socketpair()
        try:
            process = await _spawn(program, theirs, log_file)
        except BaseException as error:
            ours.close()
            log_file.unlink(missing_ok=True)
            if isinstance(error, OSError):
                raise ProgramFailed(program[0], error.strerror or str(error)) from error
            raise
        finally:
            theirs.close()
        helper = cls(process, log_file)
        try:
            helper._reader, helper._writer = await asyncio.open_connection(sock=ours)
            async with asyncio.timeout(START_TIMEOUT_S):
                message = await helper._next("start")
            if isinstance(message, orders.Failed):
                raise helper._fault(message)
            helper.idle = isinstance(message, orders.Hello)
        except TimeoutError as error:
            await helper.kill()
            raise StepTimedOut("starting a builder", START_TIMEOUT_S) from error
        except BaseException:
            await helper.kill()
            raise
        return helper

    async def perform(self, order: orders.Order, questions: Questions, timeout_s: float) -> orders.Answer:
        """Give the order, answer what is asked in between, and return the answer; a failure is raised as its fault.

        Until `release` has returned, the builder may still have the guest's memory mapped.
        """
        what = str(order.__struct_config__.tag)
        self.idle = False
        try:
            async with asyncio.timeout(timeout_s):
                return await self._converse(what, order, questions)
        except TimeoutError as error:
            raise StepTimedOut(f"builder {what}", timeout_s) from error

    async def release(self) -> None:
        """Wait until it holds nothing of the last guest."""
        if self.idle:
            return
        try:
            async with asyncio.timeout(FREE_TIMEOUT_S):
                message = await self._next("release")
        except TimeoutError as error:
            raise StepTimedOut("builder release", FREE_TIMEOUT_S) from error
        if not isinstance(message, orders.Free):
            raise HypercallFailed("builder release", "EPROTO", f"it said {message!r:.200}")
        self.idle = True

    async def end(self) -> None:
        """Let it go: it ends by itself when nobody speaks to it."""
        self._writer.close()
        try:
            async with asyncio.timeout(FREE_TIMEOUT_S):
                await self._process.wait()
        except TimeoutError:
            log.warning("builder %d does not end; killing it", self.pid)
            await self.kill()
        self._log_file.unlink(missing_ok=True)

    async def kill(self) -> None:
        """End it now, whatever it does, and see it gone."""
        self.idle = False
        if hasattr(self, "_writer"):
            self._writer.transport.abort()
        if self._process.returncode is None:
            try:
                self._process.kill()
            except ProcessLookupError:
                log.debug("builder %d had gone already", self.pid)
        await asyncio.shield(self._process.wait())
        self._log_file.unlink(missing_ok=True)

    async def _converse(self, what: str, order: orders.Order, questions: Questions) -> orders.Answer:
        refused: Exception | None = None
        await self._send(what, order)
        while True:
            match message := await self._next(what):
                case orders.Progress(done):
                    questions.progress(done)
                case orders.AskSuspend():
                    try:
                        suspended = await questions.suspend()
                    except Exception as error:  # noqa: BLE001 (raised below, when the builder has ended the order)
                        refused, suspended = error, orders.Suspended(ok=False)
                    await self._send(what, suspended)
                case orders.AskLogDirty(enable):
                    try:
                        ok = await questions.log_dirty(enable)
                    except Exception as error:  # noqa: BLE001 (as above)
                        refused, ok = error, False
                    await self._send(what, orders.LogDirty(ok=ok))
                case orders.Failed():
                    raise refused or self._fault(message)
                case orders.Answer():
                    return message
                case _:
                    raise HypercallFailed(f"builder {what}", "EPROTO", f"it said {message!r:.200}")

    async def _send(self, what: str, message: orders.Message) -> None:
        try:
            self._writer.write(orders.pack(message))
            await self._writer.drain()
        except OSError as error:
            raise await self._death(what) from error

    async def _next(self, what: str) -> orders.FromBuilder:
        try:
            while not self._received:
                untrusted_data = await self._reader.read(1 << 16)
                if not untrusted_data:
                    raise await self._death(what)
                self._received.extend(self._inbox.receive(untrusted_data))
            return orders.from_builder.decode(self._received.pop(0))
        except (orders.Malformed, msgspec.MsgspecError) as error:
            raise HypercallFailed(f"builder {what}", "EPROTO", str(error)) from error
        except OSError as error:
            raise await self._death(what) from error

    async def _death(self, what: str) -> HypercallFailed:
        """Why it is gone: its signal or status, and its last words."""
        try:
            async with asyncio.timeout(1):
                status = await self._process.wait()
        except TimeoutError:
            return HypercallFailed(f"builder {what}", "EPIPE", "it hung up but lives on")
        words = " / ".join(self.last_words().split("\n")) or "it said nothing"
        how = signal.Signals(-status).name if status < 0 else f"status {status}"
        return HypercallFailed(f"builder {what}", how, words)

    def last_words(self) -> str:
        """The end of what it wrote to its standard error."""
        try:
            untrusted_text = self._log_file.read_bytes()[-_LAST_WORDS:]
        except OSError as error:
            return f"(its log cannot be read: {error.strerror})"
        return untrusted_text.decode(errors="replace").strip()

    def _fault(self, failed: orders.Failed) -> Exception:
        for line in failed.log:
            log.info("builder %d: %s", self.pid, line)
        return decode(failed.fault)


async def _spawn(program: Sequence[str], theirs: socket.socket, log_file: Path) -> asyncio.subprocess.Process:
    descriptor = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        return await asyncio.create_subprocess_exec(
            *program,
            str(theirs.fileno()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=descriptor,
            stderr=descriptor,
            pass_fds=(theirs.fileno(),),
        )
    finally:
        os.close(descriptor)
