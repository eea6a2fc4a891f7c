# SPDX-License-Identifier: Apache-2.0
"""One SQLite file in WAL mode, written by one thread that commits in groups.

`write` only queues; `commit` returns once all that was queued before it survives a loss of power. Nearly all reading happens
once, at start: the rooms beside this one keep what they need in memory.

What cannot be written (a full disk) is owed: it is tried again until it can be, in order, so that memory and file never
part for good. What needs a page that the disk has damaged is left out, and everything else is written: the next start
copies what can be read. Only `write_or_refuse` gives up at once, and then its statements are as if they had never been asked for;
they are written in one transaction, all or none.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from xenops.errors import IoError
from xenopsd.store.file import open_store, reading

log = logging.getLogger(__name__)

_LINGER_S = 0.1  # how long a write that nobody waits for may wait for company

_RETRY_S = 1.0  # how long what is owed waits for its next trial
# The statement itself is at fault: it would fail on any disk, and is left out rather than tried for ever.
_REFUSED = (sqlite3.SQLITE_ERROR, sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG)


Statement = tuple[str, tuple[Any, ...]]


class _Write(NamedTuple):
    statements: tuple[Statement, ...]  # all of them or none
    done: "asyncio.Future[None] | None" = None  # there: now or never; not there: owed until it is written


class _Waiter(NamedTuple):
    done: "asyncio.Future[None]"
    patient: bool  # waits until it is written, rather than being told that it could not be


class Database:
    """The store's file. All methods are called from the event loop's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writes: list[_Write] = []
        self._waiters: list[_Waiter] = []
        self._failure: IoError | None = None  # of the last trial, as the event loop knows it: something is owed
        self._lock = threading.Condition()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._connection, self.salvaged = open_store(path)
        self._reader = reading(path)
        self._thread = threading.Thread(target=self._write_in_groups, name="store", daemon=True)
        self._urgent = False
        self._thread.start()

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
        """Read, before anything is written: for start-up."""
        return self._connection.execute(query, parameters).fetchall()

    def row(self, query: str, *parameters: Any) -> tuple[Any, ...] | None:
        """The one row of what is written by now, at any time. Raises `IoError`."""
        try:
            found: tuple[Any, ...] | None = self._reader.execute(query, parameters).fetchone()
        except sqlite3.Error as error:
            raise IoError(str(self.path), str(error)) from None
        return found

    @property
    def owes(self) -> bool:
        """Whether nothing can be written just now, as far as the last trial told."""
        return self._failure is not None

    def write(self, statement: str, *parameters: Any) -> None:
        """Queue a statement; it is durable after the next `commit`, or a moment later by itself."""
        with self._lock:
            self._writes.append(_Write(((statement, parameters),)))
        if self._timer is None:
            self._timer = self._loop.call_later(_LINGER_S, self._flush)

    async def write_or_refuse(self, *statements: Statement, then: Callable[[], None] = lambda: None) -> None:
        """Return once all of these are durable, after all that was queued before; or raise `IoError`, and none will be.

        `then` is done as soon as they are, in the order of the writes, whether somebody still waits or not.
        """
        done: asyncio.Future[None] = self._loop.create_future()
        done.add_done_callback(lambda done: then() if done.exception() is None else None)
        with self._lock:
            self._writes.append(_Write(statements, done))
        await self._wait(done)

    async def commit(self) -> None:
        """Return once all that was queued is durable; raises `IoError` while it cannot be: then it is owed."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            self._waiters.append(_Waiter(done, patient=False))
        await self._wait(done)

    async def persist(self) -> None:
        """Return once all that was queued is durable, however long the disk stays full."""
        done: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            self._waiters.append(_Waiter(done, patient=True))
        await self._wait(done)

    async def _wait(self, done: "asyncio.Future[None]") -> None:
        if self._closing:
            raise IoError(str(self.path), "the store is closed")
        self._flush()
        await asyncio.shield(done)  # who waits may leave; what was asked for goes on

    def close(self) -> None:
        """Write what is queued and close the file. Idempotent."""
        if self._closing:
            return
        self._closing = True
        if self._timer is not None:
            self._timer.cancel()
        with self._lock:
            self._urgent = True
            self._lock.notify()
        self._thread.join()
        self._reader.close()
        self._connection.close()

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            self._urgent = True
            self._lock.notify()

    def _write_in_groups(self) -> None:
        failure: IoError | None = None
        while True:
            with self._lock:
                while not self._urgent and self._lock.wait(_RETRY_S if failure else None):
                    continue  # told of something: look whether it is urgent; not told in time: try what is owed
                self._urgent = False
                writes, self._writes = self._writes, []
                waiters, self._waiters = self._waiters, []
                closing = self._closing
            try:
                refused, failure = self._transaction(writes), None
            except sqlite3.Error as error:
                if failure is None:  # once, not at every trial
                    log.error("the store cannot be written, and is tried again until it can: %s", error)
                refused, failure = {}, IoError(str(self.path), str(error))
            self._report(writes, waiters, refused, failure, closing=closing)
            if closing:
                return

    def _transaction(self, writes: list[_Write]) -> dict[int, IoError]:
        """Write a group; answers which of it is itself at fault. Raises when nothing could be written."""
        refused: dict[int, IoError] = {}
        while len(refused) < len(writes) and not self._together(writes, refused):
            continue  # the rest of it again: SQLite writes nothing more in a transaction that has met damage
        return refused

    def _together(self, writes: list[_Write], refused: dict[int, IoError]) -> bool:
        """Write what is not `refused`; false when one more has to be, for the damage that it needs."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for place, write in enumerate(writes):
                if place in refused:
                    continue
                try:
                    self._execute(write.statements)
                except Exception as error:
                    damaged = _code(error) == sqlite3.SQLITE_CORRUPT
                    if not damaged and not _is_at_fault(error):
                        raise
                    hint = (
                        ": the disk has damaged it; restart xenopsd, which copies what can be read" if damaged else ""
                    )
                    texts = "; ".join(text for text, _ in write.statements)
                    log.critical("the store refuses %s%s", texts, hint, exc_info=None if damaged else error)
                    refused[place] = IoError(str(self.path), str(error))
                    if damaged:
                        return False
            self._connection.execute("COMMIT")
        finally:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        return True

    def _execute(self, statements: tuple[Statement, ...]) -> None:
        """All of these, or none when one is at fault."""
        if len(statements) == 1:  # which SQLite does by itself
            self._connection.execute(*statements[0])
            return
        self._connection.execute("SAVEPOINT together")
        try:
            for statement, parameters in statements:
                self._connection.execute(statement, parameters)
        except BaseException:
            if self._connection.in_transaction:  # some failures have taken all of it back already
                self._connection.execute("ROLLBACK TO together")
            raise
        finally:
            if self._connection.in_transaction:
                self._connection.execute("RELEASE together")

    def _report(
        self,
        writes: list[_Write],
        waiters: list[_Waiter],
        refused: dict[int, IoError],
        failure: IoError | None,
        *,
        closing: bool,
    ) -> None:
        """Settle who waits, and keep what is owed."""
        settled = [(write.done, failure or refused.get(n)) for n, write in enumerate(writes) if write.done is not None]
        wrong = failure or next(iter(refused.values()), None)
        with self._lock:
            if failure is not None and not closing:
                self._writes[:0] = [write for write in writes if write.done is None]
                self._waiters[:0] = [waiter for waiter in waiters if waiter.patient]
                waiters = [waiter for waiter in waiters if not waiter.patient]
            settled += [(waiter.done, wrong) for waiter in waiters]
        if failure is not None and closing and writes:
            log.critical("the store is closed with %d changes that could not be written and are lost", len(writes))
        if settled or failure is not self._failure:
            self._loop.call_soon_threadsafe(self._settle, settled, failure)

    def _settle(self, settled: list[tuple["asyncio.Future[None]", IoError | None]], failure: IoError | None) -> None:
        if self._failure is not None and failure is None:
            log.warning("the store can be written again, and nothing is owed")
        self._failure = failure
        for done, error in settled:
            if done.done():
                continue
            if error is None:
                done.set_result(None)
            else:
                done.set_exception(error)


def _is_at_fault(error: Exception) -> bool:
    """Whether a statement would fail on any disk."""
    if not isinstance(error, sqlite3.Error) or isinstance(error, sqlite3.ProgrammingError | sqlite3.InterfaceError):
        return True
    return _code(error) in _REFUSED


def _code(error: Exception) -> int:
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_IOERR)
    return code & 0xFF
