# SPDX-License-Identifier: Apache-2.0
"""xenopsd's client of xenstore: whole subtrees in one transaction, waiting without polling, and back after a lost connection.

    xs = await XenStore.connect("/run/xenstored/socket")
    await xs.commit([Mkdir("/local/domain/7", ("n0", "r7")), Write("/local/domain/7/name", "guest", ("n0", "r7"))])
    async with xs.watch("@releaseDomain") as events:
        async for _ in events: ...
    await xs.wait_for(["/local/domain/7/control/shutdown"], lambda values: not any(values.values()), deadline_s=30)

Whatever is under way when the connection is lost fails; what is asked while there is none waits for the next one, as long as
a call may last. Watches come back by themselves and fire once more.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import TypeVar

from xenops.errors import IoError, StepTimedOut
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Perms, Remove, SetPerms, Write
from xenopsd.backends.xen.xenstore.connection import Connection
from xenopsd.backends.xen.xenstore.domains import Domains
from xenopsd.backends.xen.xenstore.nodes import payload, said
from xenopsd.backends.xen.xenstore.transaction import Transaction
from xenopsd.backends.xen.xenstore.watches import Watch, Watches
from xenopsd.backends.xen.xenstore.wire import Operation, Packet, Request

__all__ = ["Change", "Mkdir", "Perms", "Remove", "SetPerms", "Transaction", "Values", "Watch", "Write", "XenStore"]

SOCKET = "/run/xenstored/socket"
CALL_S = 30.0
ATTEMPTS = 64  # of a transaction; somebody else's succeeds each time ours does not
_FIRST_PAUSE_S = 0.05
_LONGEST_PAUSE_S = 5.0

T = TypeVar("T")
Values = Mapping[str, str | None]
log = logging.getLogger(__name__)


class XenStore(Domains):
    """The store of this host. Any number of calls may be under way at once."""

    def __init__(self, path: str, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._watches = Watches()
        self._connection: Connection | None = None
        self._connected = asyncio.Event()
        self._closed = False
        self._keeper: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, path: str = SOCKET, *, timeout_s: float = CALL_S) -> "XenStore":
        """A client whose calls may last `timeout_s` each. Raises `IoError` when nobody listens there."""
        store = cls(path, timeout_s)
        try:
            connection = await Connection.open(path, store._watches.fired, timeout_s)
        except OSError as error:
            raise IoError(path, f"xenstored cannot be reached: {error.strerror or error}") from None
        store._connection = connection
        store._keeper = asyncio.create_task(store._keep(connection), name="xenstore connection")
        return store

    async def close(self) -> None:
        """Let go of the connection; whoever waits comes to an end."""
        self._closed = True
        self._connected.set()
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait({self._keeper})
        if self._connection is not None:
            self._connection.close()
            await self._connection.lost.wait()
        for watch in self._watches:
            watch.close()

    async def commit(self, changes: Iterable[Change]) -> None:
        """All of these changes or none, seen by everybody at once. Tried again when others were faster."""
        requests = said(changes)
        if len(requests) == 1:
            await self._several(requests)
        elif requests:
            await self.transact(lambda transaction: transaction.perform(requests))

    async def transact(self, work: Callable[[Transaction], Awaitable[T]]) -> T:
        """Do `work` in a transaction; all of it again when others changed meanwhile what it read or wrote."""
        for attempt in range(ATTEMPTS):
            async with self._begun() as transaction:
                result = await work(transaction)
                if await transaction.commit():
                    return result
            await asyncio.sleep(random.uniform(0, min(attempt, 20)) / 1000)  # so that two do not keep pace for ever
        raise IoError("xenstore", f"others changed the same nodes during each of {ATTEMPTS} attempts at a transaction")

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Transaction]:
        """A transaction that is committed in the end. Raises `IoError` when others were faster: `transact` tries again."""
        async with self._begun() as transaction:
            yield transaction
            if not transaction.ended and not await transaction.commit():
                raise IoError("xenstore", "TRANSACTION_END was refused with EAGAIN: others changed the same nodes")

    @asynccontextmanager
    async def watch(self, *paths: str) -> AsyncIterator[Watch]:
        """The paths, at or below these, that change; `@introduceDomain` and `@releaseDomain` are paths too."""
        connection = await self._reach()
        watch = self._watches.prepare(paths)
        requests = watch.requests(Operation.WATCH)
        burst = connection.send(requests)
        self._watches.add(watch)
        try:
            for request, reply in zip(
                requests, await connection.answers(burst, requests, self._timeout_s), strict=True
            ):
                payload(request, reply)
            yield watch
        finally:
            # Nobody waits for the answer: so it ends, too, when who looked was cancelled.
            self._watches.remove(watch)
            if self._connection is not None:
                self._connection.send(watch.requests(Operation.UNWATCH))

    async def wait_for(self, paths: Sequence[str], holds: Callable[[Values], bool], deadline_s: float) -> Values:
        """The values of these paths, as soon as `holds` is true of them. Raises `StepTimedOut` after `deadline_s`."""
        try:
            async with asyncio.timeout(deadline_s), self.watch(*paths) as events:
                async for _ in events:  # each fires once in the beginning
                    events.drain()
                    values = await self._values(paths)
                    if values is not None and holds(values):
                        return values
        except TimeoutError:
            raise StepTimedOut(f"waiting for {', '.join(paths)} in xenstore", deadline_s) from None
        raise IoError(self._path, "the connection to xenstored was closed")

    async def reset_watches(self) -> None:
        """Begin every watch anew. The daemon ends this client's transactions with it."""
        again = [request for watch in self._watches for request in watch.requests(Operation.WATCH)]
        await self._several([Request(Operation.RESET_WATCHES), *again])

    async def _values(self, paths: Sequence[str]) -> Values | None:
        """None when the connection was lost meanwhile: the watches fire again after it has come back."""
        connection = self._connection
        try:
            return dict(zip(paths, await self.read_many(paths), strict=True))
        except IoError:
            if self._closed or connection is None or not connection.lost.is_set():
                raise
            return None

    async def _ask(self, requests: Sequence[Request]) -> list[Packet]:
        connection = await self._reach()
        return await connection.ask(requests, 0, self._timeout_s)

    @asynccontextmanager
    async def _begun(self) -> AsyncIterator[Transaction]:
        transaction = await Transaction.begin(await self._reach(), self._timeout_s)
        try:
            yield transaction
        finally:
            if not transaction.ended:
                transaction.abort()

    async def _reach(self) -> Connection:
        """The connection; the next one when there is none."""
        try:
            async with asyncio.timeout(self._timeout_s):
                while not self._closed:
                    await self._connected.wait()
                    if self._connection is not None and not self._connection.lost.is_set():
                        return self._connection
                    self._connected.clear()
        except TimeoutError:
            raise IoError(self._path, f"xenstored could not be reached for {self._timeout_s:g} s") from None
        raise IoError(self._path, "the connection to xenstored was closed")

    async def _keep(self, connection: Connection) -> None:
        """There is a connection, whenever xenstored is there."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._use(connection)
            await connection.lost.wait()
            pause_s = _FIRST_PAUSE_S if connection.heard else min(2 * pause_s, _LONGEST_PAUSE_S)
            log.warning("the connection to xenstored at %s was lost", self._path)
            connection, pause_s = await self._again(pause_s)

    async def _again(self, pause_s: float) -> tuple[Connection, float]:
        while True:
            await asyncio.sleep(pause_s)
            try:
                return await Connection.open(self._path, self._watches.fired, self._timeout_s), pause_s
            except OSError as error:
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                log.warning("xenstored cannot be reached: %s; tried again in %g s", error, pause_s)

    async def _use(self, connection: Connection) -> None:
        """From now on calls go there, behind the watches, each of which fires at once."""
        again = [(watch, request) for watch in self._watches for request in watch.requests(Operation.WATCH)]
        requests = [request for _, request in again]
        burst = connection.send(requests)
        self._connection = connection
        self._connected.set()
        try:
            replies = await connection.answers(burst, requests, self._timeout_s)
        except IoError as error:
            log.warning("the watches did not come back: %s", error)
            connection.close()
            return
        for (watch, request), reply in zip(again, replies, strict=True):
            if reply.error:
                log.error("the watch of %s did not come back: %s", request.subject, reply.error)
                watch.fire(request.subject)
