# SPDX-License-Identifier: Apache-2.0
"""What was accepted and what became of it.

A task row is written when the task is accepted, marked when it begins and completed when it ends; what is found
begun but not ended at start-up was interrupted.
"""

import logging
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import msgspec

from xenops.types import task as wire
from xenops.types.task import TaskState
from xenopsd.store.database import Database
from xenopsd.store.seal import Damaged, seal, unseal
from xenopsd.store.transaction import Transaction

log = logging.getLogger(__name__)

_FORGET = "DELETE FROM tasks WHERE id = ?"


class Recorded(Protocol):
    """A task, as far as it is written down."""

    @property
    def id(self) -> str:
        """Its id."""

    def record(self) -> wire.Task:
        """It as a client sees it."""


class Entry(NamedTuple):
    """One task of an earlier life."""

    record: wire.Task
    payload: bytes
    begun: bool
    message_id: str | None


class Journal:
    """The engine's journal, kept in the database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def entries(self) -> Iterator[Entry]:
        """What earlier lives left behind, in the order in which it was accepted; for start-up."""
        rows = sorted(self._database.rows("SELECT * FROM tasks"), key=lambda row: _place(row[0]))
        for id, message_id, begun, payload, record in rows:
            try:
                decoded = msgspec.msgpack.decode(unseal(record, *_record(id)), type=wire.Task)
                yield Entry(decoded, unseal(payload, *_payload(id)), bool(begun), message_id)
            except (Damaged, msgspec.DecodeError) as error:
                log.error("the record of task %s is damaged and left alone: %s", id, error)

    def next_life(self, now_ms: int) -> int:
        """What this life's tasks are numbered by: above those of earlier lives, even when the clock has been set back."""
        return max(now_ms, *(_place(id)[0] + 1 for (id,) in self._database.rows("SELECT id FROM tasks")), 0)

    async def accept(self, task: Recorded, payload: bytes, message_id: str | None, *, begun: bool) -> None:
        """See `engine.workers.Journal`."""
        record = seal(msgspec.msgpack.encode(task.record()), *_record(task.id))
        payload = seal(payload, *_payload(task.id))
        await self._database.write_or_refuse(
            ("INSERT INTO tasks VALUES (?, ?, ?, ?, ?)", (task.id, message_id, int(begun), payload, record))
        )

    async def begin(self, task: Recorded) -> None:
        """See `engine.workers.Journal`."""
        self._database.write("UPDATE tasks SET begun = 1 WHERE id = ?", task.id)
        await self._database.persist()

    async def finish(self, task: Recorded, state: TaskState) -> None:
        """See `engine.workers.Journal`."""
        record = msgspec.structs.replace(task.record(), state=state, cancellable=False)
        sealed = seal(msgspec.msgpack.encode(record), *_record(task.id))
        self._database.write("UPDATE tasks SET begun = 1, record = ? WHERE id = ?", sealed, task.id)
        await self._database.persist()

    def step(self, task: Recorded) -> None:
        """Note which step a task has reached; written with the next commit."""
        sealed = seal(msgspec.msgpack.encode(task.record()), *_record(task.id))
        self._database.write("UPDATE tasks SET record = ? WHERE id = ?", sealed, task.id)

    def forget(self, task: Recorded) -> None:
        """See `engine.workers.Journal`."""
        self._database.write(_FORGET, task.id)

    def forgetting(self, task: Recorded) -> Transaction:
        """The change that forgets a task, for who has more to write with it."""
        transaction = Transaction(self._database)
        transaction.write(_FORGET, task.id)
        return transaction


def _record(id: str) -> tuple[str, ...]:
    return "tasks", "record", id


def _payload(id: str) -> tuple[str, ...]:
    return "tasks", "payload", id


def _place(id: str) -> tuple[int, int, str]:
    """Where a task's id stands among others: by the daemon's life, then by number, not by its text."""
    life, _, number = id.partition("-")
    try:
        return int(life, 16), int(number), id
    except ValueError:
        return 0, 0, id
