# SPDX-License-Identifier: Apache-2.0
"""The two ends of a connection that carries a machine's memory: a rim around `stream`, and never waiting for ever."""

import asyncio
import ssl
from contextlib import suppress

from xenops.errors import MigrationFailed
from xenopsd.migration import stream
from xenopsd.migration.stream import Codec, Damaged

_READ = 1 << 18
_HIGH_WATER = 1 << 20  # what may wait for the network


class OutgoingLine:
    """The source's end; an `Outlet`."""

    def __init__(self, vm: str, writer: asyncio.StreamWriter, compress: Codec | None, stall_s: float) -> None:
        self._vm, self._writer, self._frames, self._stall_s = vm, writer, stream.Writer(compress), stall_s

    @property
    def bytes_sent(self) -> int:
        """How much memory and state, before compression."""
        return self._frames.total

    async def send(self, data: bytes) -> None:
        """See `Outlet`."""
        await self._write(self._frames.data(data))

    async def finish(self) -> None:
        """All of it was sent."""
        await self._write(self._frames.end())

    def close(self) -> None:
        """Idempotent; what was written goes out still."""
        self._writer.close()

    async def _write(self, frames: bytes) -> None:
        self._writer.write(frames)
        try:
            async with asyncio.timeout(self._stall_s):
                await self._writer.drain()
        except TimeoutError:
            raise MigrationFailed(self._vm, f"the stream did not move for {self._stall_s:g} s") from None
        except OSError as error:
            raise MigrationFailed(self._vm, f"the stream broke: {error}") from None


async def connect(
    vm: str,
    host: str,
    port: int,
    ticket: bytes,
    *,
    version: int,
    tls: ssl.SSLContext | None,
    compress: Codec | None,
    stall_s: float,
) -> OutgoingLine:
    """Go where a destination said. Raises `MigrationFailed`."""
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(stall_s):
            reader, writer = await asyncio.open_connection(host, port, ssl=tls, server_hostname=host if tls else None)
            writer.transport.set_write_buffer_limits(high=_HIGH_WATER)
            writer.write(stream.greeting(version, ticket))
            await writer.drain()
            stream.parse_welcome(await _at_most(reader, stream.WELCOME_BYTES))
    except BaseException as error:
        if writer is not None:
            writer.close()
        if isinstance(error, TimeoutError):
            raise MigrationFailed(vm, f"no welcome from {host} port {port} in {stall_s:g} s") from None
        if isinstance(error, OSError | Damaged):  # SSL's errors are OSErrors
            raise MigrationFailed(vm, f"no stream to {host} port {port}: {error}") from None
        raise
    return OutgoingLine(vm, writer, compress, stall_s)


class IncomingLine:
    """The destination's end; an `Inlet`."""

    def __init__(
        self,
        vm: str,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        expand: Codec | None,
        stall_s: float,
    ) -> None:
        self._vm, self._reader, self._writer, self._stall_s = vm, reader, writer, stall_s
        self._frames = stream.Reader(expand)
        self._payloads: list[bytes] = []

    async def receive(self) -> bytes | None:
        """See `Inlet`."""
        while not self._payloads:
            if self._frames.whole:
                return None
            self._payloads = self._parse(await self._read())
        return self._payloads.pop(0)

    def close(self) -> None:
        """Idempotent."""
        self._writer.close()

    async def _read(self) -> bytes:
        try:
            async with asyncio.timeout(self._stall_s):
                untrusted = await self._reader.read(_READ)
        except TimeoutError:
            raise MigrationFailed(self._vm, f"the stream did not move for {self._stall_s:g} s") from None
        except OSError as error:
            raise MigrationFailed(self._vm, f"the stream broke: {error}") from None
        if not untrusted:
            raise MigrationFailed(self._vm, "the stream ended before the memory was whole")
        return untrusted

    def _parse(self, untrusted: bytes) -> list[bytes]:
        try:
            return self._frames.receive(untrusted)
        except Damaged as error:
            raise MigrationFailed(self._vm, str(error)) from None


async def _at_most(reader: asyncio.StreamReader, count: int) -> bytes:
    """That many bytes, or fewer when there are no more."""
    got = b""
    while len(got) < count and (more := await reader.read(count - len(got))):
        got += more
    return got


async def greeted(reader: asyncio.StreamReader, timeout_s: float) -> tuple[int, bytes]:
    """The version and the ticket of who connects. Raises `Damaged`."""
    with suppress(OSError):
        try:
            async with asyncio.timeout(timeout_s):
                return stream.parse_greeting(await _at_most(reader, stream.GREETING_BYTES))
        except TimeoutError:
            raise Damaged(f"no greeting in {timeout_s:g} s") from None
    raise Damaged("the connection broke")
