# SPDX-License-Identifier: Apache-2.0
"""Where the simulated world is kept, so that it outlives the daemon: one row a thing.

A write is in the kernel's hands when it returns: it survives the end of the process at any moment. It need not survive
the loss of power (which a simulated host would not survive either), so nothing is forced to the disk.
"""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec

from xenops.errors import IoError
from xenopsd.backends.simulator.world.domain import ENCODER

_SCHEMA = "CREATE TABLE IF NOT EXISTS thing (kind TEXT, key TEXT, body BLOB, PRIMARY KEY (kind, key)) WITHOUT ROWID"
# The exclusive lock keeps a second daemon off the same world.
_PRAGMAS = (
    "locking_mode=EXCLUSIVE",
    "journal_mode=WAL",
    "synchronous=OFF",
    "cache_size=-256",
    "wal_autocheckpoint=200",
)


class Shelf:
    """Things by kind and key."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(path, isolation_level=None, timeout=0)
        except (OSError, sqlite3.Error) as error:
            raise self._fault(error) from error
        try:
            for pragma in _PRAGMAS:
                self._database.execute(f"PRAGMA {pragma}").fetchall()
            self._database.execute(_SCHEMA)
        except sqlite3.Error as error:
            self._database.close()
            raise self._fault(error) from error

    def put(self, kind: str, key: str, thing: msgspec.Struct) -> None:
        """Keep it, in place of what had that key."""
        self._execute("INSERT OR REPLACE INTO thing VALUES (?, ?, ?)", (kind, key, ENCODER.encode(thing)))

    def drop(self, kind: str, key: str) -> None:
        """Forget it. Idempotent."""
        self._execute("DELETE FROM thing WHERE kind = ? AND key = ?", (kind, key))

    def load(self, kind: str) -> Iterator[tuple[str, bytes]]:
        """All things of a kind."""
        yield from self._execute("SELECT key, body FROM thing WHERE kind = ?", (kind,))

    def close(self) -> None:
        """Idempotent."""
        self._database.close()

    def _execute(self, statement: str, values: tuple[str | bytes, ...]) -> sqlite3.Cursor:
        try:
            return self._database.execute(statement, values)
        except sqlite3.Error as error:
            raise self._fault(error) from error

    def _fault(self, error: Exception) -> IoError:
        return IoError(str(self._path), f"the simulated world cannot be kept: {error}")
