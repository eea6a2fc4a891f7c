# SPDX-License-Identifier: Apache-2.0
"""One connection to xenstored: many requests under way at once, each answer brought to whoever asked.

It knows nothing of what is asked. When it is lost it stays lost: the client makes another, and no transaction outlives it.
"""

import asyncio
import logging
from collections.abc import Callable, Sequence

from xenops.errors import IoError
from xenops.sockets import Intake, connected
from xenopsd.backends.xen.xenstore.wire import (
    Decoder,
    Operation,
    Packet,
    Request,
    Unencodable,
    WireError,
    encode,
    strings,
)

log = logging.getLogger(__name__)


class Burst:
    """Requests that were sent together. `answered` is done when all replies are there, or the connection is lost."""

    def __init__(self, size: int) -> None:
        self.replies: list[Packet | None] = [None] * size
        self.missing = size
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if not size:
            self.end()

    def take(self, index: int, packet: Packet) -> None:
        """The answer to one of the requests."""
        self.replies[index] = packet
        self.missing -= 1
        if not self.missing:
            self.end()

    def end(self) -> None:
        """There will be no more answers."""
        if not self.answered.done():
            self.answered.set_result(None)


class Connection(Intake):
    """The rim: the protocol on a socket."""

    def __init__(self, name: str, fired: Callable[[str, str], None]) -> None:
        self.name = name
        self.lost = asyncio.Event()
        self.heard = False
        self._fired = fired
        self._decoder = Decoder()
        self._transport: asyncio.Transport | None = None
        self._pending: dict[int, tuple[Burst, int]] = {}
        self._last_id = 0

    @classmethod
    async def open(cls, path: str, fired: Callable[[str, str], None], timeout_s: float) -> "Connection":
        """Raises `OSError`, of which `TimeoutError` is one."""
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(timeout_s):
            _, connection = await loop.create_unix_connection(lambda: cls(path, fired), sock=await connected(path))
        return connection

    def close(self) -> None:
        """Let go of the socket; whoever waits hears of it."""
        if self._transport is not None:
            self._transport.abort()

    def send(self, requests: Sequence[Request], transaction: int = 0) -> Burst:
        """All of them in one write. Raises `IoError` when one cannot be said; then none is sent."""
        ids = [self._fresh_id() for _ in requests]
        out: list[bytes] = []
        for request_id, request in zip(ids, requests, strict=True):
            try:
                out.append(encode(request, request_id, transaction))
            except Unencodable as error:
                raise refused(request, error.error, str(error)) from None
        burst = Burst(len(requests))
        if self._transport is None or self.lost.is_set():
            burst.end()
            return burst
        self._pending.update({request_id: (burst, index) for index, request_id in enumerate(ids)})
        self._transport.write(b"".join(out))
        return burst

    async def ask(self, requests: Sequence[Request], transaction: int, timeout_s: float) -> list[Packet]:
        """The answers, errors among them, in the order of the requests. Raises `IoError` when there are none."""
        return await self.answers(self.send(requests, transaction), requests, timeout_s)

    async def answers(self, burst: Burst, requests: Sequence[Request], timeout_s: float) -> list[Packet]:
        """The answers to what was sent. Raises `IoError`; the burst itself goes on when nobody waits any more."""
        try:
            async with asyncio.timeout(timeout_s):
                await asyncio.shield(burst.answered)
        except TimeoutError:
            raise _late(requests[burst.replies.index(None)], timeout_s) from None
        replies = [reply for reply in burst.replies if reply is not None]
        if len(replies) < len(requests):
            raise self._lost_during(requests[burst.replies.index(None)])
        return replies

    def _lost_during(self, request: Request) -> IoError:
        what = f"{request.operation.name} {request.subject}".strip()
        return IoError(self.name, f"the connection to xenstored was lost during {what}; it may or may not be done")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The event loop has the socket."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone, and so is every answer that was to come."""
        self.lost.set()
        pending, self._pending = self._pending, {}
        for burst, _ in pending.values():
            burst.end()

    def data_received(self, data: bytes) -> None:
        """The daemon said something."""
        try:
            for packet in self._decoder.feed(data):
                self._take(packet)
            if self._decoder.broken:
                raise WireError(self._decoder.broken)
        except WireError as error:
            log.error("xenstored at %s does not keep to the protocol and is left: %s", self.name, error)
            self.close()

    def _take(self, packet: Packet) -> None:
        self.heard = True
        if packet.operation is Operation.WATCH_EVENT:
            untrusted = strings(packet.untrusted_payload)
            if len(untrusted) < 2:
                raise WireError("an event without a path or a token")
            self._fired(untrusted[0], untrusted[1])
            return
        try:
            burst, index = self._pending.pop(packet.request_id)
        except KeyError:
            raise WireError(f"an answer to {packet.request_id}, which was not asked") from None
        burst.take(index, packet)

    def _fresh_id(self) -> int:
        while True:
            self._last_id = self._last_id % 0xFFFFFFFF + 1
            if self._last_id not in self._pending:
                return self._last_id


def refused(request: Request, error: str, reason: str = "") -> IoError:
    """The fault for a request that was answered with an error."""
    return IoError(
        f"xenstore {request.subject}".strip(), f"{request.operation.name} was refused with {error} {reason}".strip()
    )


def _late(request: Request, timeout_s: float) -> IoError:
    """The fault for a request that was not answered in time."""
    return IoError(
        f"xenstore {request.subject}".strip(),
        f"xenstored did not answer {request.operation.name} within {timeout_s:g} s; it may still be done",
    )
