# SPDX-License-Identifier: Apache-2.0
"""Where a destination listens, as long as it expects somebody: a ticket is good for one connection.

Who has none learns nothing but that the connection ends, and cannot keep it open for long; where too many come, those that
came first go, for who has a ticket shows it at once.
"""

import asyncio
import logging
import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path

from xenops.errors import MigrationFailed
from xenopsd.migration import stream
from xenopsd.migration.compression import expander
from xenopsd.migration.line import IncomingLine, greeted
from xenopsd.migration.stream import TICKET_BYTES, Damaged

log = logging.getLogger(__name__)

_GREETING_S = 10.0
_STRANGERS = 64  # connections without a ticket yet, at once


@dataclass(frozen=True)
class Streams:
    """How memory travels; from the configuration."""

    address: str = "127.0.0.1"
    port: int = 0  # any that is free
    advertise: str = ""  # what sources are told, where it is not the address
    certificate: str = ""
    key: str = ""
    authority: str = ""
    stall_s: float = 30.0

    @property
    def tls(self) -> bool:
        """Whether it travels encrypted."""
        return bool(self.certificate)


@dataclass(frozen=True)
class Expected:
    """Somebody who may come."""

    vm: str
    ticket: bytes
    compress: bool
    line: "asyncio.Future[IncomingLine]"


class Door:
    """The listening socket and the tickets."""

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._expected: list[Expected] = []
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()
        self._strangers: dict[asyncio.Task[None], asyncio.StreamWriter] = {}  # in the order in which they came
        self.port = 0

    async def expect(self, vm: str, *, compress: bool) -> Expected:
        """Give out a ticket, and listen. Raises `MigrationFailed` when that is not possible."""
        async with self._opening:
            if self._server is None:
                await self._open(vm)
        one = Expected(vm, secrets.token_bytes(TICKET_BYTES), compress, asyncio.get_running_loop().create_future())
        self._expected.append(one)
        return one

    @property
    def host(self) -> str:
        """What sources are told."""
        return self._streams.advertise or self._streams.address

    def forget(self, one: Expected) -> None:
        """Nobody may come with that ticket any more; the last one closes the door. Idempotent."""
        if one in self._expected:
            self._expected.remove(one)
        if one.line.done() and not one.line.cancelled():
            one.line.result().close()
        one.line.cancel()
        if not self._expected:
            self.close()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        for stranger in tuple(self._strangers):
            self._turn_away(stranger)
        server, self._server = self._server, None
        if server is not None:
            server.close()

    async def _open(self, vm: str) -> None:
        try:
            context = server_context(self._streams) if self._streams.tls else None
            self._server = await asyncio.start_server(
                self._connected,
                self._streams.address,
                self._streams.port,
                ssl=context,
                ssl_handshake_timeout=_GREETING_S if context else None,
            )
        except OSError as error:
            raise MigrationFailed(vm, f"the destination cannot listen for it: {error}") from None
        self.port = int(self._server.sockets[0].getsockname()[1])

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if len(self._strangers) >= _STRANGERS:
            self._turn_away(next(iter(self._strangers)))
        greeting = asyncio.ensure_future(self._greet(reader, writer))
        self._strangers[greeting] = writer
        greeting.add_done_callback(lambda greeting: self._strangers.pop(greeting, None))

    def _turn_away(self, stranger: "asyncio.Task[None]") -> None:
        self._strangers.pop(stranger).close()
        stranger.cancel()

    async def _greet(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            version, ticket = await greeted(reader, _GREETING_S)
            one = next((each for each in self._expected if stream.same_ticket(each.ticket, ticket)), None)
            if one is None or one.line.done():
                raise Damaged("nobody with that ticket is expected (any more)")
            line = IncomingLine(one.vm, reader, writer, expander() if one.compress else None, self._streams.stall_s)
            one.line.set_result(line)
            writer.write(stream.welcome(version))
        except Damaged as error:
            log.warning("a connection for a migration was refused: %s", error)
            writer.close()
        except BaseException:
            writer.close()
            raise


def server_context(streams: Streams) -> ssl.SSLContext:
    """A destination's: it wants a certificate of the authority, and shows its own."""
    return _context(streams, ssl.PROTOCOL_TLS_SERVER)


def client_context(streams: Streams) -> ssl.SSLContext:
    """A source's: the same, and the destination's name must be the one that it was told."""
    return _context(streams, ssl.PROTOCOL_TLS_CLIENT)


def _context(streams: Streams, protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(Path(streams.certificate), Path(streams.key) if streams.key else None)
    context.load_verify_locations(Path(streams.authority))
    return context
