# SPDX-License-Identifier: Apache-2.0
"""The store's file as it is found: new, of this version, older, newer, or damaged.

An older one is brought up to date in one transaction; a newer one is refused untouched. Of a damaged one everything that
can be read goes into a new file, and the damaged one is kept beside it: what is read is believed only under its seal. A
table whose root page is lost is lost as a whole.
"""

import logging
import sqlite3
import struct
import time
from contextlib import closing
from pathlib import Path
from typing import Any

from xenops.errors import IoError
from xenopsd.store.seal import seal

log = logging.getLogger(__name__)

VERSION = 2
_LONGEST = 1 << 40  # more is no length but damage
_TABLES = {  # the key first: as many columns as the second says
    "machines": ("id TEXT PRIMARY KEY, seq INTEGER NOT NULL, body BLOB NOT NULL", 1),
    "devices": (
        "vm TEXT NOT NULL, kind TEXT NOT NULL, dev TEXT NOT NULL, seq INTEGER NOT NULL, active INTEGER NOT NULL, "
        "body BLOB NOT NULL, PRIMARY KEY (vm, kind, dev)",
        3,
    ),
    "tasks": (
        "id TEXT PRIMARY KEY, message_id TEXT, begun INTEGER NOT NULL, payload BLOB NOT NULL, record BLOB NOT NULL",
        1,
    ),
    "outcomes": ("message_id TEXT PRIMARY KEY, at INTEGER NOT NULL, reply BLOB NOT NULL", 1),
    "migrations": ("id TEXT PRIMARY KEY, at INTEGER NOT NULL, body BLOB NOT NULL", 1),
}
_BY_AGE = "CREATE INDEX IF NOT EXISTS outcomes_at ON outcomes (at)"
_SEALED = {
    "machines": ("body",),
    "devices": ("body",),
    "tasks": ("payload", "record"),
    "outcomes": ("reply",),
    "migrations": ("body",),
}


def open_store(path: Path) -> tuple[sqlite3.Connection, bool]:
    """The open file, and whether something of it is lost. Raises `IoError` when it is newer, or no store at all."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        opened = _opened(path)
        return (_salvage(path, opened), True) if isinstance(opened, str) else (opened, False)
    except (sqlite3.Error, OSError) as error:
        raise IoError(str(path), f"{error}; restore a backup of it, or move it away to start empty") from None


def reading(path: Path) -> sqlite3.Connection:
    """The file again, for looking at while others write it. Raises `IoError`."""
    try:
        connection = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5.0, isolation_level=None)
    except sqlite3.Error as error:
        raise IoError(str(path), str(error)) from None
    connection.text_factory = _text
    return connection


def _opened(path: Path) -> sqlite3.Connection | str:
    """The open file of this version, or what is damaged of it."""
    connection = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
    damage = "not opened"
    try:
        connection.text_factory = _text
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        _make_current(connection, path)
        damage = _damage(connection)
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_CORRUPT:
            raise
        damage = str(error)
    finally:
        if damage:
            connection.close()
    return damage or connection


def _text(kept: bytes) -> str:
    """Text as it is kept; where a disk has made it none, what is left of it: then the seal of its row is broken."""
    return kept.decode("utf-8", "replace")


def _make_current(connection: sqlite3.Connection, path: Path) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version < 0:
        raise IoError(str(path), f"of schema {version}, which there never was; restore a backup of it")
    if version > VERSION:
        raise IoError(
            str(path),
            f"written by a newer xenopsd (schema {version}, this one knows {VERSION}); upgrade, or restore a backup",
        )
    if version == VERSION:
        connection.execute(_BY_AGE)  # where an earlier build of ours had none
        return
    connection.execute("BEGIN IMMEDIATE")
    if version == 0:
        _create(connection)
    else:
        log.info("the store %s is of schema %d and becomes %d", path, version, VERSION)
        _seal_all(connection)
    connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _create(connection: sqlite3.Connection) -> None:
    for table, (columns, _) in _TABLES.items():
        connection.execute(f"CREATE TABLE IF NOT EXISTS {table} ({columns}) STRICT, WITHOUT ROWID")
    connection.execute(_BY_AGE)


def _seal_all(connection: sqlite3.Connection) -> None:
    """From schema 1, which had no seals and no migrations."""
    _create(connection)
    for table, (_, keys) in _TABLES.items():
        cursor = connection.execute(f"SELECT * FROM {table}")
        names = [column[0] for column in cursor.description]
        where = " AND ".join(f"{name} = ?" for name in names[:keys])
        for row in cursor.fetchall():
            for name in _SEALED[table]:
                sealed = seal(row[names.index(name)], table, name, *row[:keys])
                connection.execute(f"UPDATE {table} SET {name} = ? WHERE {where}", (sealed, *row[:keys]))


def _damage(connection: sqlite3.Connection) -> str:
    found = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    return "" if found == "ok" else str(found)


def _salvage(path: Path, damage: str) -> sqlite3.Connection:
    """A new file with all that can be read of a damaged one, which is kept."""
    kept = path.with_name(f"{path.name}.damaged-{int(time.time())}")
    fresh = path.with_name(f"{path.name}.salvaged")
    fresh.unlink(missing_ok=True)
    _lengthen(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as old, closing(sqlite3.connect(fresh)) as new:
        old.text_factory = _text
        if (version := old.execute("PRAGMA user_version").fetchone()[0]) != VERSION:
            raise IoError(str(path), f"damaged ({damage}), and of schema {version}; restore a backup of it")
        _create(new)
        counts = {table: _copy(old, new, table) for table in _TABLES}
        new.execute(f"PRAGMA user_version = {VERSION}")
        new.commit()
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(kept.with_name(kept.name + suffix))
    path.rename(kept)
    fresh.chmod(0o600)
    fresh.rename(path)
    told = ", ".join(f"{count} {table}" for table, count in counts.items())
    log.critical(
        "the store %s was damaged (%s) and is kept as %s; what could be read of it: %s", path, damage, kept, told
    )
    opened = _opened(path)
    if isinstance(opened, str):
        raise IoError(str(path), f"cannot be opened again ({opened})")
    return opened


def _lengthen(path: Path) -> None:
    """SQLite reads nothing of a file that is shorter than its first page says; what is missing is then a lost page."""
    with path.open("rb+") as file:
        page, count = struct.unpack(">16xH10xI", file.read(32).ljust(32, b"\0"))
        length = (65536 if page == 1 else page) * count
        if path.stat().st_size < length <= _LONGEST:
            file.truncate(length)


def _copy(old: sqlite3.Connection, new: sqlite3.Connection, table: str) -> int:
    """From both ends up to where it cannot be read; says how many rows."""
    keys = ", ".join(str(n + 1) for n in range(_TABLES[table][1]))
    rows: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        ordered = ", ".join(f"{key} {order}" for key in keys.split(", "))
        try:
            for row in old.execute(f"SELECT * FROM {table} ORDER BY {ordered}"):
                rows[row[: _TABLES[table][1]]] = row
        except sqlite3.Error as error:
            log.error("the table %s of the store cannot be read beyond %d rows: %s", table, len(rows), error)
        else:
            break
    marks = ", ".join("?" * len(next(iter(rows.values()), ())))
    count = 0
    for row in rows.values():
        try:
            new.execute(f"INSERT INTO {table} VALUES ({marks})", row)
            count += 1
        except sqlite3.Error as error:  # garbage of another type than the column's
            log.error("a row of %s in the store is damaged: %s", table, error)
    return count
