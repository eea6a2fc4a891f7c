# SPDX-License-Identifier: Apache-2.0
"""All registered machines: kept in memory, written through to the database.

A record changes by a `Revision`: durable first, then visible, or neither (`IoError`). What is so in the world already,
such as a plugged device, is noted: visible at once, durable after `commit`, and owed while the store cannot be written.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import msgspec

from xenops.errors import DoesNotExist
from xenops.events import Kind
from xenops.types.vm import Vm
from xenopsd.store.database import Database
from xenopsd.store.machine import RECORDS, AnyDevice, Device, Machine
from xenopsd.store.revision import Revision

log = logging.getLogger(__name__)

_SET_ACTIVE = "UPDATE devices SET active = ? WHERE vm = ? AND kind = ? AND dev = ?"
_NOTE_DEVICE = "UPDATE devices SET body = ? WHERE vm = ? AND kind = ? AND dev = ?"


class Machines:
    """The registered machines, by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._machines: dict[str, Machine] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # as long as anybody waits
        self._seq = 0
        for id, seq, body in database.rows("SELECT id, seq, body FROM machines ORDER BY seq"):
            try:
                self._machines[id] = Machine(msgspec.msgpack.decode(body, type=Vm), seq)
            except msgspec.DecodeError as error:  # the rest is usable: say which one is not, and keep its row
                log.error("the record of VM %s is unreadable and left alone: %s", id, error)
            self._seq = max(self._seq, seq)
        for vm, kind, dev, seq, active, body in database.rows("SELECT * FROM devices ORDER BY seq"):
            self._seq = max(self._seq, seq)
            try:
                record = msgspec.msgpack.decode(body, type=RECORDS[Kind(kind)])
            except (msgspec.DecodeError, ValueError) as error:
                log.error("the record of %s %s.%s is unreadable and left alone: %s", kind, vm, dev, error)
                continue
            if vm in self._machines:
                self._machines[vm].devices.setdefault(Kind(kind), {})[dev] = Device(record, bool(active))

    async def commit(self) -> None:
        """Return once all that was noted so far is durable."""
        await self._database.commit()

    def find(self, id: str) -> Machine:
        """The machine of that id; raises `DoesNotExist`."""
        found = self._machines.get(id)
        if found is None:
            raise DoesNotExist("VM", id)
        return found

    @asynccontextmanager
    async def changing(self, id: str) -> AsyncIterator[Revision]:
        """Change the record of a machine, or of its devices, while nobody else does; so once it is committed."""
        async with self._turn(id):
            yield Revision(self._database, self._machines, id, self._next_seq)

    async def note(self, kind: Kind, record: AnyDevice) -> None:
        """A known device has become another, in the world already; raises `DoesNotExist`."""
        async with self._turn(record.id.vm):
            self.find(record.id.vm).device(kind, record.id.dev).record = record
            body = msgspec.msgpack.encode(record)
            self._database.write(_NOTE_DEVICE, body, record.id.vm, kind.value, record.id.dev)

    def set_active(self, kind: Kind, vm: str, dev: str, active: bool) -> None:
        """Note whether a device is meant to be plugged."""
        device = self.find(vm).device(kind, dev)
        if device.active != active:
            device.active = active
            self._database.write(_SET_ACTIVE, int(active), vm, kind.value, dev)

    def _turn(self, id: str) -> asyncio.Lock:
        lock = self._turns.get(id)
        if lock is None:
            lock = self._turns[id] = asyncio.Lock()
        return lock

    def _next_seq(self) -> int:
        self._seq += 1
        return self._seq

    def __contains__(self, id: object) -> bool:
        return id in self._machines

    def __iter__(self) -> Iterator[Machine]:
        return iter(tuple(self._machines.values()))

    def __len__(self) -> int:
        return len(self._machines)
