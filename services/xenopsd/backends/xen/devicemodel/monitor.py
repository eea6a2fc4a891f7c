# SPDX-License-Identifier: Apache-2.0
"""The way to speak with one running QEMU: commands through its monitor's Unix socket, and its events.

One command at a time, each with a deadline. A command that is cancelled, or too late, may still be carried out; its
answer is then dropped. QEMU hears one client at a time: another one waits until we have gone.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from xenops.errors import IoError, StepTimedOut
from xenops.sockets import connected
from xenopsd.backends.xen.devicemodel.qmp import (
    Conversation,
    Event,
    Greeting,
    NoMonitor,
    Refused,
    Reply,
    command,
)

log = logging.getLogger(__name__)

COMMAND_S = 20.0
_CHUNK = 1 << 16

OnEvent = Callable[[Event], None]


class CommandRefused(Exception):
    """QEMU would not; `kind` is its class of errors, such as DeviceNotFound."""

    def __init__(self, name: str, refused: Refused) -> None:
        super().__init__(f"{name}: {refused.reason}")
        self.kind, self.reason = refused.kind, refused.reason


class Monitor:
    """A connection, open until it is closed or lost."""

    def __init__(self, path: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, on_event: OnEvent):
        self._path, self._reader, self._writer, self._on_event = path, reader, writer, on_event
        self._turn = asyncio.Lock()
        self._last_id = 0
        self._answers: dict[int, asyncio.Future[Reply | Refused]] = {}
        self._greeted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._why_lost = ""
        self._listening = asyncio.create_task(self._listen(), name=f"monitor {path.name}")

    @classmethod
    async def open(cls, path: Path, on_event: OnEvent, *, timeout_s: float = COMMAND_S) -> "Monitor":
        """Connect and agree to speak. Raises `IoError`, `StepTimedOut`."""
        monitor = None
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(sock=await connected(path), limit=_CHUNK)
                monitor = cls(path, reader, writer, on_event)
                await asyncio.shield(monitor._greeted)
                await monitor.execute("qmp_capabilities", timeout_s=timeout_s)
                return monitor
        except BaseException as error:
            if monitor is not None:
                await monitor.close()
            if isinstance(error, TimeoutError):
                raise StepTimedOut(f"connecting to QEMU at {path}", timeout_s) from None
            if isinstance(error, OSError | CommandRefused):
                raise IoError(str(path), f"QEMU's monitor cannot be reached: {error}") from None
            raise

    @property
    def lost(self) -> bool:
        """Whether nothing more comes."""
        return self._listening.done()

    async def execute(self, name: str, arguments: dict[str, Any] | None = None, *, timeout_s: float = COMMAND_S) -> Any:
        """Have a command carried out. Raises `CommandRefused`, `IoError` when the connection is lost, `StepTimedOut`."""
        try:
            async with asyncio.timeout(timeout_s), self._turn:
                return await self._ask(name, arguments or {})
        except TimeoutError:
            raise StepTimedOut(f"QEMU's {name} through {self._path.name}", timeout_s) from None
        except OSError as error:
            raise IoError(str(self._path), f"{name}: {error.strerror or error}") from None

    async def close(self) -> None:
        """Let go. Idempotent."""
        self._listening.cancel()
        await asyncio.gather(self._listening, return_exceptions=True)
        self._writer.close()
        with contextlib.suppress(OSError):
            await self._writer.wait_closed()

    async def _ask(self, name: str, arguments: dict[str, Any]) -> Any:
        if self.lost:
            raise IoError(str(self._path), f"{name}: {self._why_lost or 'the monitor was closed'}")
        self._last_id += 1
        id = self._last_id
        answer = self._answers[id] = asyncio.get_running_loop().create_future()
        try:
            self._writer.write(command(id, name, arguments))
            await self._writer.drain()
            said = await answer
        finally:
            del self._answers[id]
        if isinstance(said, Refused):
            raise CommandRefused(name, said)
        return said.value

    async def _listen(self) -> None:
        conversation = Conversation()
        try:
            while untrusted := await self._reader.read(_CHUNK):
                for message in conversation.feed(untrusted):
                    self._take(message)
            self._why_lost = "QEMU closed its monitor"
        except NoMonitor as problem:
            self._why_lost = f"what QEMU said is no QMP: {problem}"
            log.warning("%s: %s", self._path, self._why_lost)
        except OSError as error:
            self._why_lost = f"the connection broke: {error.strerror or error}"
        finally:
            self._end()

    def _take(self, message: Greeting | Reply | Refused | Event) -> None:
        match message:
            case Greeting():
                self._greeted.set_result(None)
            case Event():
                self._on_event(message)
            case _:
                answer = self._answers.get(message.id)
                if answer is not None and not answer.done():  # else nobody waits for it any more
                    answer.set_result(message)

    def _end(self) -> None:
        gone = IoError(str(self._path), self._why_lost or "the monitor was closed")
        waiting: list[asyncio.Future[Any]] = [self._greeted, *self._answers.values()]
        for future in waiting:
            if not future.done():
                future.set_exception(gone)
                future.exception()  # whoever was cancelled meanwhile does not look at it
