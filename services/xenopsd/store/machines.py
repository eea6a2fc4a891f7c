# SPDX-License-Identifier: Apache-2.0
"""All registered machines: kept in memory, written through to the database.

A record changes by a `Revision`: durable first, then visible, or neither (`IoError`). What is so in the world already,
such as a plugged device, is noted: visible at once, durable after `commit`, and owed while the store cannot be written.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from weakref import WeakValueDictionary

import msgspec

from xenops.errors import DoesNotExist, Fault, RecordDamaged
from xenops.events import Kind
from xenops.types.vm import Vm
from xenopsd.store.database import Database
from xenopsd.store.machine import RECORDS, AnyDevice, Device, Machine, device_key, vm_key
from xenopsd.store.revision import Revision
from xenopsd.store.seal import Damaged, seal, unseal

log = logging.getLogger(__name__)

_SET_ACTIVE = "UPDATE devices SET active = ? WHERE vm = ? AND kind = ? AND dev = ?"
_NOTE_DEVICE = "UPDATE devices SET body = ? WHERE vm = ? AND kind = ? AND dev = ?"


class Machines:
    """The registered machines, by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._machines: dict[str, Machine] = {}
        self._turns: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # as long as anybody waits
        self._damaged: dict[str, tuple[str, str, str] | None] = {}  # by id, the place of a device
        self.barred: dict[str, Callable[[], Fault]] = {}  # nobody may change these machines now, and why
        self.absent: Callable[[str], Fault] = lambda id: DoesNotExist("VM", id)
        self._arriving: dict[str, Machine] = {}  # not ours yet
        self._seq = 0
        for id, seq, body in database.rows("SELECT id, seq, body FROM machines ORDER BY seq"):
            try:
                self._machines[id] = Machine(msgspec.msgpack.decode(unseal(body, *vm_key(id)), type=Vm), seq)
            except (
                Damaged,
                msgspec.DecodeError,
            ) as error:  # the rest is usable: say which one is not, and keep its row
                log.error("the record of VM %s is damaged and left alone; register it again: %s", id, error)
                self._damaged[id] = None
            self._seq = max(self._seq, seq)
        for vm, kind, dev, seq, active, body in database.rows("SELECT * FROM devices ORDER BY seq"):
            self._seq = max(self._seq, seq)
            try:
                sealed = unseal(body, *device_key(vm, Kind(kind), dev))
                record = msgspec.msgpack.decode(sealed, type=RECORDS[Kind(kind)])
            except (Damaged, msgspec.DecodeError, ValueError) as error:
                log.error("the record of %s %s.%s is damaged and left alone; add it again: %s", kind, vm, dev, error)
                self._damaged[f"{vm}.{dev}"] = (vm, kind, dev)
                continue
            if vm in self._machines:
                self._machines[vm].devices.setdefault(Kind(kind), {})[dev] = Device(record, bool(active))

    @property
    def damaged(self) -> list[str]:
        """The machines and devices whose records were damaged on the disk, and that nobody has registered again."""
        return sorted(id for id, device in self._damaged.items() if not self._is_there(id, device))

    async def commit(self) -> None:
        """Return once all that was noted so far is durable."""
        await self._database.commit()

    def find(self, id: str) -> Machine:
        """The machine of that id; raises `DoesNotExist`, `RecordDamaged` where the disk has lost it."""
        found = self._machines.get(id)
        if found is None:
            raise RecordDamaged("VM", id) if id in self._damaged else self.absent(id)
        if self._damaged:
            self._damaged.pop(id, None)  # it was registered again
        return found

    def expect(self, machine: Machine, why_barred: Callable[[], Fault]) -> None:
        """A machine is on its way to us: its devices are plugged, but nobody knows of it yet, and no other may take its id."""
        self._arriving[machine.id] = machine
        self.barred[machine.id] = why_barred

    def is_expected(self, id: str) -> bool:
        """Whether it is on its way to us, and nobody knows of it."""
        return id in self._arriving

    def arrived(self, id: str) -> None:
        """It is registered, or does not come."""
        self._arriving.pop(id, None)
        self.barred.pop(id, None)

    @asynccontextmanager
    async def changing(self, id: str) -> AsyncIterator[Revision]:
        """Change the record of a machine, or of its devices, while nobody else does; so once it is committed."""
        async with self._turn(id):
            if id in self.barred:
                raise self.barred[id]()
            yield Revision(self._database, self._machines, id, self._next_seq)

    async def note(self, kind: Kind, record: AnyDevice) -> None:
        """A known device has become another, in the world already; raises `DoesNotExist`."""
        async with self._turn(record.id.vm):
            self.find(record.id.vm).device(kind, record.id.dev).record = record
            body = seal(msgspec.msgpack.encode(record), *device_key(record.id.vm, kind, record.id.dev))
            self._database.write(_NOTE_DEVICE, body, record.id.vm, kind.value, record.id.dev)

    @asynccontextmanager
    async def barring(self, id: str) -> AsyncIterator[Revision]:
        """The same for who has barred the machine."""
        async with self._turn(id):
            yield Revision(self._database, self._machines, id, self._next_seq)

    def set_active(self, kind: Kind, vm: str, dev: str, active: bool) -> None:
        """Note whether a device is meant to be plugged."""
        if vm in self._arriving:
            self._arriving[vm].device(kind, dev).active = active
            return
        device = self.find(vm).device(kind, dev)
        if device.active != active:
            device.active = active
            self._database.write(_SET_ACTIVE, int(active), vm, kind.value, dev)

    def _is_there(self, id: str, device: tuple[str, str, str] | None) -> bool:
        if device is None:
            return id in self._machines
        vm, kind, dev = device
        return vm in self._machines and any(
            dev in devices for of, devices in self._machines[vm].devices.items() if of.value == kind
        )

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
