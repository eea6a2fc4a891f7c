# SPDX-License-Identifier: Apache-2.0
"""A pipe of which we hold both ends, until a builder has opened one of them by its path.

Nothing has to travel with the order but that path, and nothing is left anywhere when either process dies.
"""

import asyncio
import fcntl
import os
from collections.abc import Callable
from types import TracebackType
from typing import Any

_CAPACITY = 1 << 20  # the most that the kernel gives without asking; fewer changes between us and the builder
_PIECE = 1 << 18


class Pipe:
    """`with Pipe() as pipe`: its ends are closed at the end of the block at the latest. One of them is ours to use."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, _CAPACITY)

    def __enter__(self) -> "Pipe":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop_reading()
        self.finish()

    @property
    def into(self) -> str:
        """The path where a builder writes, for as long as neither end was closed here."""
        return f"/proc/{os.getpid()}/fd/{self._writer}"

    @property
    def out_of(self) -> str:
        """The path where a builder reads."""
        return f"/proc/{os.getpid()}/fd/{self._reader}"

    async def read(self) -> bytes:
        """Some of what was written; nothing when all that may write have ended, ourselves too."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                return os.read(self._reader, _PIECE)
            except BlockingIOError:
                await _when(self._reader, loop.add_reader, loop.remove_reader)

    async def write(self, data: bytes) -> None:
        """Have it all taken. Raises `BrokenPipeError` when nobody reads any more."""
        loop, left = asyncio.get_running_loop(), memoryview(data)
        while left:
            try:
                left = left[os.write(self._writer, left) :]
            except BlockingIOError:
                await _when(self._writer, loop.add_writer, loop.remove_writer)

    def stop_reading(self) -> None:
        """Who writes is told that nobody wants it. Idempotent."""
        self._reader = _closed(self._reader)

    def finish(self) -> None:
        """We write nothing (more). Idempotent."""
        self._writer = _closed(self._writer)


async def _when(end: int, add: Callable[..., Any], remove: Callable[[int], bool]) -> None:
    """Wait until the kernel says that something can be done there."""
    ready = asyncio.get_running_loop().create_future()
    add(end, lambda: None if ready.done() else ready.set_result(None))
    try:
        await ready
    finally:
        remove(end)


def _closed(end: int) -> int:
    if end >= 0:
        os.close(end)
    return -1
