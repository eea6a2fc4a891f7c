# SPDX-License-Identifier: Apache-2.0
"""A transaction of xenstore: it lives and dies with the connection on which it began."""

import asyncio
import logging
from collections.abc import Iterable, Sequence

from xenops.errors import IoError
from xenopsd.backends.xen.xenstore.changes import Change
from xenopsd.backends.xen.xenstore.connection import Burst, Connection, refused
from xenopsd.backends.xen.xenstore.nodes import Nodes, payload, said
from xenopsd.backends.xen.xenstore.wire import Operation, Packet, Request, strings

log = logging.getLogger(__name__)
_START = Request(Operation.TRANSACTION_START)
_COMMIT = Request(Operation.TRANSACTION_END, ("T",))
_ABORT = Request(Operation.TRANSACTION_END, ("F",))


class Transaction(Nodes):
    """A view of the store in which nothing of others changes, and whose changes are seen by all at once or never."""

    def __init__(self, connection: Connection, number: int, timeout_s: float) -> None:
        self.ended = False
        self._connection = connection
        self._number = number
        self._timeout_s = timeout_s

    @classmethod
    async def begin(cls, connection: Connection, timeout_s: float) -> "Transaction":
        """Raises `IoError`. When nobody waits any more, it is ended as soon as it has begun."""
        burst = connection.send([_START])
        try:
            [reply] = await connection.answers(burst, [_START], timeout_s)
        except (asyncio.CancelledError, IoError):
            burst.answered.add_done_callback(lambda _: _abandon(connection, burst, timeout_s))
            raise
        return cls(connection, _number(reply), timeout_s)

    async def apply(self, changes: Iterable[Change]) -> None:
        """All these changes, in one piece and in this order."""
        await self.perform(said(changes))

    async def perform(self, requests: Sequence[Request]) -> None:
        """The same, for changes that are requests already."""
        await self._several(requests)

    async def commit(self) -> bool:
        """Let everybody see it. False: others changed the same nodes meanwhile, and nothing of it was done."""
        self.ended = True
        [reply] = await self._ask([_COMMIT])
        return payload(_COMMIT, reply, allowed=("EAGAIN",)) is not None

    def abort(self) -> None:
        """Nothing of it was done. Nobody need wait for it."""
        self.ended = True
        self._connection.send([_ABORT], self._number)

    async def _ask(self, requests: Sequence[Request]) -> list[Packet]:
        return await self._connection.ask(requests, self._number, self._timeout_s)


def _number(reply: Packet) -> int:
    untrusted = "".join(strings(payload(_START, reply) or b""))
    if not (untrusted.isascii() and untrusted.isdecimal() and len(untrusted) <= 10 and 0 < int(untrusted) < 1 << 32):
        raise refused(_START, "EIO", f"{untrusted!r:.40} is no transaction")
    return int(untrusted)


def _abandon(connection: Connection, burst: Burst, timeout_s: float) -> None:
    reply = burst.replies[0]
    if reply is not None and reply.error is None:
        try:
            Transaction(connection, _number(reply), timeout_s).abort()
        except IoError as error:
            log.error("a transaction that nobody waits for cannot be ended: %s", error)
