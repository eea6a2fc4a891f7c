# SPDX-License-Identifier: Apache-2.0
"""What must be known of migrations after a crash: whom a machine was given to, and what is on its way to us.

A source that has not decided is not here: what it does not know was given up.
"""

import logging
import time
from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple

import msgspec

from xenops.types.metadata import Metadata
from xenopsd.store.database import Database
from xenopsd.store.seal import Damaged, seal, unseal
from xenopsd.store.transaction import Transaction

log = logging.getLogger(__name__)

_PUT = "INSERT OR REPLACE INTO migrations VALUES (?, ?, ?)"
_DROP = "DELETE FROM migrations WHERE id = ?"


class Phase(Enum):
    """How far it is, at either end."""

    GIVEN = "given"  # at the source: the decision
    GONE = "gone"  # at the source: the destination knows; kept for a while, to say where the machine went
    RECEIVING = "receiving"  # at the destination: its domain must be cleared up, should we die
    PREPARED = "prepared"  # at the destination: the source decides
    OWNED = "owned"  # at the destination: ours, and to be unpaused
    SETTLED = "settled"  # at the destination: done; kept for a while, to answer a source that asks again
    BESIDE = (
        "beside"  # within one xenopsd: a second domain is made beside the first, and must be cleared up, should we die
    )
    REPLACING = "replacing"  # within one xenopsd: the decision; the second domain takes the place of the first


class Crossing(msgspec.Struct, frozen=True, kw_only=True):
    """One machine that goes from here, or comes."""

    id: str
    vm: str
    peer: str  # the other end's queue; ours, within one xenopsd
    phase: Phase
    at: int = 0  # seconds
    metadata: Metadata | None = (
        None  # at the destination, until the machine is registered; within one, what it shall be
    )
    paused: bool = False  # and so it stays


class Name(NamedTuple):
    """What a migration's id says by itself, for when its record is damaged; its source makes it up, and it is never used again."""

    source: str  # a queue
    task: str
    to: str  # a queue
    vm: str

    def __str__(self) -> str:
        return "/".join(self)


class Crossings:
    """All that is remembered, by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: dict[str, Crossing] = {}
        self._left: dict[str, Crossing] = {}  # by machine, the last time that it was given away
        self._doubled: dict[str, Crossing] = {}  # by machine, those that have two domains here
        self.damaged: list[
            str
        ] = []  # ids of those whose records cannot be read; for start-up, which finds out what they said
        for id, body in database.rows("SELECT id, body FROM migrations ORDER BY at"):
            try:
                self._keep(msgspec.msgpack.decode(unseal(body, *_key(id)), type=Crossing))
            except (Damaged, msgspec.DecodeError) as error:
                log.critical("the record of the migration %s is damaged: %s", id, error)
                self.damaged.append(id)

    def find(self, id: str) -> Crossing | None:
        """What is known of it."""
        return self._known.get(id)

    def left(self, vm: str) -> Crossing | None:
        """The migration by which the machine left, or is leaving for good."""
        return self._left.get(vm)

    def doubled(self, vm: str) -> Crossing | None:
        """The migration within this xenopsd for which the machine has, or may have, a second domain."""
        return self._doubled.get(vm)

    def of_task(self, source: str, task: str) -> Crossing | None:
        """The migration that this task of that source began, as far as it must be known after a crash."""
        beginning = f"{source}/{task}/"
        return next((each for id, each in self._known.items() if id.startswith(beginning)), None)

    def of_vm(self, vm: str) -> list[Crossing]:
        """All that is known of the machine's migrations."""
        return [each for each in self._known.values() if each.vm == vm]

    def unfinished(self) -> list[str]:
        """The machines for which something is left to do, until it is done."""
        return [*self.given(), *self._doubled]

    def given(self) -> list[str]:
        """The machines whose destinations have not confirmed that they have them."""
        return [vm for vm, crossing in self._left.items() if crossing.phase is Phase.GIVEN]

    def transaction(self) -> Transaction:
        """A change of nothing but these."""
        return Transaction(self._database)

    def put(self, transaction: Transaction, crossing: Crossing) -> None:
        """Have it remembered with this change."""
        crossing = msgspec.structs.replace(crossing, at=int(time.time()))
        transaction.write(_PUT, crossing.id, crossing.at, seal(msgspec.msgpack.encode(crossing), *_key(crossing.id)))
        transaction.then(lambda: self._keep(crossing))

    def drop(self, transaction: Transaction, id: str) -> None:
        """Have it forgotten with this change."""
        transaction.write(_DROP, id)
        transaction.then(lambda: self._forget(id))

    def mend(self, id: str, crossing: Crossing | None) -> None:
        """Put what is known now in the place of a damaged record; owed to the store while that cannot be written."""
        self.damaged.remove(id)
        if crossing is None:
            self._database.write(_DROP, id)
        else:
            self._write(crossing)

    def over(self, *, older_than_s: float) -> list[Crossing]:
        """Those that have been kept for so long only to tell others."""
        limit = int(time.time() - older_than_s)
        return [each for each in self if each.phase in (Phase.GONE, Phase.SETTLED) and each.at < limit]

    def forget(self, crossing: Crossing) -> None:
        """Nobody will ask for it any more."""
        self._database.write(_DROP, crossing.id)
        self._forget(crossing.id)

    def postpone(self, crossing: Crossing) -> None:
        """Keep it for as long again."""
        self._write(crossing)

    def _write(self, crossing: Crossing) -> None:
        crossing = msgspec.structs.replace(crossing, at=int(time.time()))
        sealed = seal(msgspec.msgpack.encode(crossing), *_key(crossing.id))
        self._database.write(_PUT, crossing.id, crossing.at, sealed)
        self._keep(crossing)

    def _keep(self, crossing: Crossing) -> None:
        self._forget(crossing.id)
        self._known[crossing.id] = crossing
        if crossing.phase in (Phase.GIVEN, Phase.GONE):
            self._left[crossing.vm] = crossing
        elif crossing.phase in (Phase.OWNED, Phase.SETTLED):
            self._left.pop(crossing.vm, None)  # it has come back
        elif crossing.phase in (Phase.BESIDE, Phase.REPLACING):
            self._doubled[crossing.vm] = crossing

    def _forget(self, id: str) -> None:
        gone = self._known.pop(id, None)
        if gone is not None and (left := self._left.get(gone.vm)) is not None and left.id == id:
            del self._left[gone.vm]
        if gone is not None and (doubled := self._doubled.get(gone.vm)) is not None and doubled.id == id:
            del self._doubled[gone.vm]

    def __iter__(self) -> Iterator[Crossing]:
        return iter(tuple(self._known.values()))


def parse(id: str) -> Name | None:
    """What a migration's id says; none, where it is of an older kind or damaged itself."""
    parts = id.split("/", 3)
    return Name(*parts) if len(parts) == 4 and all(parts) else None


def _key(id: str) -> tuple[str, ...]:
    return "migrations", "body", id
