# SPDX-License-Identifier: Apache-2.0
"""What somebody types, or what is piped in, on its way to a console.

It never reads further ahead than `AHEAD`: a large file does not end in memory.
"""

import asyncio
import os
from collections.abc import Iterator
from contextlib import contextmanager

from xenops_cli.console.terminal import DETACH

AHEAD = 1 << 16


class Keyboard:
    """Bytes waiting to be sent; `detached` is set by Ctrl-] on a terminal."""

    def __init__(self, descriptor: int | None = None, typed: bytes = b"") -> None:
        self.detached = asyncio.Event()
        self._descriptor = descriptor
        self._waiting = bytearray(typed)
        self._typed = asyncio.Event()
        self._more = descriptor is not None
        if typed:
            self._typed.set()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within this block the descriptor is read."""
        self._watch()
        try:
            yield
        finally:
            self._unwatch()
            self._more = False

    async def typed(self) -> bytes:
        """What was typed since, as soon as there is anything."""
        await self._typed.wait()
        self._typed.clear()
        taken = bytes(self._waiting)
        self._waiting.clear()
        self._watch()
        return taken

    def _watch(self) -> None:
        if not self._more or self._descriptor is None:
            return
        try:
            asyncio.get_running_loop().add_reader(self._descriptor, self._read)
        except PermissionError:  # a plain file is always readable, and epoll knows none: read it piece by piece
            self._read()

    def _unwatch(self) -> None:
        if self._descriptor is not None:
            asyncio.get_running_loop().remove_reader(self._descriptor)

    def _read(self) -> None:
        descriptor = self._descriptor
        if descriptor is None:
            return
        try:
            data = os.read(descriptor, AHEAD)
        except OSError:  # the terminal has gone away
            data = b""
        if os.isatty(descriptor):
            if DETACH in data or not data:
                data = data[: data.find(DETACH)] if DETACH in data else data
                self.detached.set()
                self._more = False
        elif not data:
            self._more = False
        self._waiting += data
        if data:
            self._typed.set()
        if not self._more or len(self._waiting) >= AHEAD:
            self._unwatch()
