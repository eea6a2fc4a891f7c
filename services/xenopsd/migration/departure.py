# SPDX-License-Identifier: Apache-2.0
"""One machine on its way from here: what is asked of its destination, and how long its guest stood still.

It goes by the table of the source's end; the decision itself is written by a step, and only after `hear_prepared`.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

from xenops.errors import DoesNotExist, Fault, MigrationFailed
from xenops.interfaces.xenops import Migration
from xenops.interfaces.xenops.migration import Accepted, Standing
from xenops.types.metadata import Metadata
from xenopsd.migration.compression import compressor
from xenopsd.migration.door import Streams, client_context
from xenopsd.migration.handshake import SOURCE, End, Event, Message, Source
from xenopsd.migration.line import OutgoingLine, connect
from xenopsd.migration.peers import CALL_S, Peers
from xenopsd.migration.stream import VERSIONS, agreed

_POLL_S = 2.0
_FAREWELL_S = 2.0  # an abort that is not heard is asked for


class Departure:
    """The source's end of one migration."""

    def __init__(
        self, id: str, vm: str, to: str, peers: Peers, streams: Streams, *, compress: bool, patience_s: float
    ) -> None:
        self.id, self.vm, self.to = id, vm, to
        self.end: End[Source] = End(SOURCE, Source.KEPT)
        self._peers, self._streams, self._compress, self._patience_s = peers, streams, compress, patience_s
        self._accepted: Accepted | None = None
        self._stopped_at = 0.0
        self.rounds, self.bytes_sent = 0, 0

    async def offer(self, source: str, metadata: Metadata, *, paused: bool) -> None:
        """Have it accepted. Raises `MigrationFailed`, and the destination's reasons to refuse."""
        self.end.on(Event.BEGIN)

        async def ask(peer: Migration) -> Accepted:
            return await peer.offer(self.id, source, metadata, list(VERSIONS), self._compress, paused)

        try:
            self._accepted = await self._ask(ask)
            if agreed([self._accepted.version]) is None:
                raise MigrationFailed(self.vm, f"{self.to} speaks version {self._accepted.version} of the stream")
        except DoesNotExist as fault:
            raise MigrationFailed(self.vm, str(fault)) from None
        self.end.on(Message.ACCEPTED)

    async def connect(self) -> OutgoingLine:
        """The stream. Raises `MigrationFailed`."""
        accepted = self._accepted
        assert accepted is not None
        if accepted.tls != self._streams.tls:
            raise MigrationFailed(self.vm, f"one of us and {self.to} has TLS configured and the other has not")
        try:
            tls = client_context(self._streams) if accepted.tls else None
        except OSError as error:
            raise MigrationFailed(self.vm, f"our certificate, key or authority cannot be used: {error}") from None
        return await connect(
            self.vm,
            accepted.host,
            accepted.port,
            accepted.ticket,
            version=accepted.version,
            tls=tls,
            compress=compressor() if accepted.compress else None,
            stall_s=self._streams.stall_s,
        )

    def stops(self) -> None:
        """The guest is asked to suspend: it stands still from here."""
        self._stopped_at = time.monotonic()

    def sent(self, rounds: int, bytes_sent: int) -> None:
        """All of it went out, the guest being suspended."""
        self.rounds, self.bytes_sent = rounds, bytes_sent
        self.end.on(Event.SUSPENDED)

    async def hear_prepared(self) -> None:
        """Wait until the destination could run it whatever happens. Raises `MigrationFailed`."""

        async def ask(peer: Migration) -> Standing:
            return await peer.query(self.id, timeout=_POLL_S)

        until = asyncio.get_running_loop().time() + self._patience_s
        while self.end.would(Message.PREPARED) is not None:
            self.end.on(Event.AGAIN)
            try:
                if await self._ask(ask) is not Standing.RECEIVING:
                    return
            except DoesNotExist:
                self.end.on(Message.REFUSED)
                break
            if asyncio.get_running_loop().time() >= until:
                raise MigrationFailed(self.vm, f"{self.to} was not ready in {self._patience_s:g} s")
        raise MigrationFailed(self.vm, f"{self.to} could not take it, and gave it up; its log says why")

    def keep(self) -> None:
        """It stays here: nothing that is heard later changes that. Idempotent."""
        self.end.on(Event.GIVE_UP)

    async def tell_kept(self) -> None:
        """Let the destination know, if it can be reached; it would ask otherwise."""

        async def tell(peer: Migration) -> None:
            await peer.abort(self.id)

        with suppress(Fault, TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._peers.once(self.to, tell)

    def result(self, *, running: bool) -> dict[str, Any]:
        """What the task answers; the guest stood still from when it was asked to suspend until the destination's answer was here."""
        return {
            "destination": self.to,
            "running": running,
            "downtime_s": round(time.monotonic() - self._stopped_at, 6),
            "rounds": self.rounds,
            "bytes": self.bytes_sent,
        }

    async def _ask(self, ask: Callable[[Migration], Awaitable[Any]]) -> Any:
        patience_s = max(CALL_S, self._patience_s)
        return await self._peers.patiently(self.vm, self.to, ask, patience_s=patience_s)
