# SPDX-License-Identifier: Apache-2.0
"""One SQLite file in WAL mode, written by one thread that commits in groups.

`write` only queues; `commit` returns once all that was queued before it survives a loss of power. Reading happens
once, at start: the rooms beside this one keep what they need in memory. A newer file than we know is not touched.
"""

import asyncio
import logging
import sqlite3
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from xenops.errors import IoError

log = logging.getLogger(__name__)

_SCHEMA = """
CREATE TABLE machines (id TEXT PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE devices (vm TEXT NOT NULL, kind TEXT NOT NULL, dev TEXT NOT NULL, seq INTEGER NOT NULL,
    active INTEGER NOT NULL, body BLOB NOT NULL, PRIMARY KEY (vm, kind, dev)) STRICT, WITHOUT ROWID;
CREATE TABLE tasks (id TEXT PRIMARY KEY, message_id TEXT, begun INTEGER NOT NULL, payload BLOB NOT NULL,
    record BLOB NOT NULL) STRICT, WITHOUT ROWID;
CREATE TABLE outcomes (message_id TEXT PRIMARY KEY, at INTEGER NOT NULL, reply BLOB NOT NULL) STRICT, WITHOUT ROWID;
PRAGMA user_version = 1;
"""
VERSION = 1
_LINGER_S = 0.02  # how long a write that nobody waits for may wait for company

Write = tuple[str, tuple[Any, ...]]


class Database:
    """The store's file. All methods are called from the event loop's thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._writes: list[Write] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._lock = threading.Condition()
        self._closing = False
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._connection = self._open()
        self._thread = threading.Thread(target=self._write_in_groups, name="store", daemon=True)
        self._urgent = False
        self._thread.start()

    def rows(self, query: str, parameters: tuple[Any, ...] = ()) -> Iterable[tuple[Any, ...]]:
        """Read, before anything is written: for start-up."""
        return self._connection.execute(query, parameters).fetchall()

    def write(self, statement: str, *parameters: Any) -> None:
        """Queue a statement; it is durable after the next `commit`, or a moment later by itself."""
        with self._lock:
            self._writes.append((statement, parameters))
        if self._timer is None:
            self._timer = self._loop.call_later(_LINGER_S, self._flush)

    async def commit(self) -> None:
        """Return once all that was queued is durable; raises `IoError` when it cannot be."""
        if self._closing:
            raise IoError(str(self.path), "the store is closed")
        done: asyncio.Future[None] = self._loop.create_future()
        with self._lock:
            self._waiters.append(done)
        self._flush()
        await asyncio.shield(done)

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
        self._connection.close()

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch(mode=0o600)
            connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None, check_same_thread=False)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            if version > VERSION:
                raise IoError(
                    str(self.path),
                    f"written by a newer xenopsd (schema {version}, this one knows {VERSION}); upgrade, or restore a backup",
                )
            if version == 0:
                connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")
            if (found := connection.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                raise IoError(
                    str(self.path), f"the store is damaged: {found}; restore a backup, or move it away to start empty"
                )
            return connection
        except (sqlite3.Error, OSError) as error:
            raise IoError(str(self.path), str(error)) from None

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        with self._lock:
            self._urgent = True
            self._lock.notify()

    def _write_in_groups(self) -> None:
        while True:
            with self._lock:
                while not self._urgent:
                    self._lock.wait()
                self._urgent = False
                writes, self._writes = self._writes, []
                waiters, self._waiters = self._waiters, []
                closing = self._closing
            error = self._transaction(writes) if writes else None
            if waiters:
                self._loop.call_soon_threadsafe(_settle, waiters, error)
            if closing:
                return

    def _transaction(self, writes: list[Write]) -> Exception | None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for statement, parameters in writes:
                self._connection.execute(statement, parameters)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            log.error("the store could not be written: %s", error)
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            return IoError(str(self.path), str(error))
        return None


def _settle(waiters: list["asyncio.Future[None]"], error: Exception | None) -> None:
    for waiter in waiters:
        if waiter.done():
            continue
        if error is None:
            waiter.set_result(None)
        else:
            waiter.set_exception(error)
