# SPDX-License-Identifier: Apache-2.0
"""The two kinds of things that bytes are carried between: a socket, and a terminal such as xenconsoled gives a guest.

receive   what has come; b"" when no more will
send      all of it, however long the other side takes to read
finish    the other side has said its last; a terminal is heard until it has been quiet for a moment, and is then free
              for the next viewer, with whom this one would share what the guest says
"""

import asyncio
import contextlib
import errno
import os
import socket
import stat
import termios
import tty
from typing import Protocol

from xenops.sockets import connected
from xenops.types.console import Console

LOOPBACK = "127.0.0.1"
CHUNK = 1 << 16  # all that is ever buffered of one direction: who sends faster than the other reads has to wait
_CONNECT_S = 5.0
_LAST_S = 1.0


class End(Protocol):
    """One side of a conversation."""

    async def receive(self) -> bytes:
        """What has come."""

    async def send(self, data: bytes) -> None:
        """Say that."""

    def finish(self) -> None:
        """Say no more."""

    def close(self) -> None:
        """Let go. Idempotent."""


class Socket:
    """A connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    async def receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._connection, CHUNK)

    async def send(self, data: bytes) -> None:
        await asyncio.get_running_loop().sock_sendall(self._connection, data)

    def finish(self) -> None:
        with contextlib.suppress(OSError):  # it may have closed altogether in the meantime
            self._connection.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self._connection.close()


class Terminal:
    """A terminal, in raw mode: it neither echoes what the guest says back to it nor takes any byte for a command."""

    def __init__(self, path: str) -> None:
        """Raises `OSError`, `ValueError` when it is none."""
        self._finished, self._news = False, asyncio.Event()
        self._fd = os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            tty.setraw(self._fd, termios.TCSANOW)  # what has been said already stays
        except termios.error as error:
            self.close()
            raise ValueError(f"{path} is no terminal: {error}") from None

    async def receive(self) -> bytes:
        quiet = False
        while True:
            try:
                return os.read(self._fd, CHUNK)
            except BlockingIOError:
                if quiet:
                    return b""
                quiet = self._finished
                await self._news_within(_LAST_S if self._finished else None)
            except OSError as error:
                if error.errno == errno.EIO:  # whoever had the other end has gone
                    return b""
                raise

    async def send(self, data: bytes) -> None:
        loop, rest = asyncio.get_running_loop(), memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._fd, rest) :]
            except BlockingIOError:
                taken = asyncio.Event()
                loop.add_writer(self._fd, taken.set)
                try:
                    await taken.wait()
                finally:
                    loop.remove_writer(self._fd)

    def finish(self) -> None:
        self._finished = True
        self._news.set()

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    async def _news_within(self, timeout_s: float | None) -> None:
        loop = asyncio.get_running_loop()
        self._news.clear()
        loop.add_reader(self._fd, self._news.set)
        try:
            async with asyncio.timeout(timeout_s):
                await self._news.wait()
        except TimeoutError:
            return
        finally:
            loop.remove_reader(self._fd)


async def connect(console: Console) -> End:
    """A console's own end: a Unix socket, a terminal or a loopback port; ValueError if it names none of them."""
    if not console.path and not 0 < console.port < 65536:
        raise ValueError("it has neither a socket nor a port")
    if console.path and stat.S_ISCHR(os.stat(console.path).st_mode):
        return Terminal(console.path)
    async with asyncio.timeout(_CONNECT_S):
        return Socket(await (connected(console.path) if console.path else _connected(console.port)))


async def _connected(port: int) -> socket.socket:
    end = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        await asyncio.get_running_loop().sock_connect(end, (LOOPBACK, port))
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except BaseException:
        end.close()
        raise
    return end
