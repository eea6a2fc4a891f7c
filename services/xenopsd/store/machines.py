# SPDX-License-Identifier: Apache-2.0
"""All registered machines: kept in memory, written through to the database.

A change is visible at once and durable after `commit`; who tells the outside of it commits first. While the store
cannot be written, records do not change (`IoError`); only what is so in the world, such as a plugged device, is noted.
"""

import logging
from collections.abc import Iterator, Sequence

import msgspec

from xenops.errors import DoesNotExist
from xenops.events import Kind
from xenops.types.metadata import Metadata
from xenops.types.vm import Vm
from xenopsd.store.database import Database
from xenopsd.store.machine import RECORDS, AnyDevice, Device, Machine

log = logging.getLogger(__name__)

_PUT_VM = "INSERT INTO machines VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
_PUT_DEVICE = """INSERT INTO devices VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (vm, kind, dev) DO UPDATE SET active = excluded.active, body = excluded.body"""


class Machines:
    """The registered machines, by id."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._machines: dict[str, Machine] = {}
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
        """Return once every change so far is durable."""
        await self._database.commit()

    def find(self, id: str) -> Machine:
        """The machine of that id; raises `DoesNotExist`."""
        found = self._machines.get(id)
        if found is None:
            raise DoesNotExist("VM", id)
        return found

    def put(self, vm: Vm) -> bool:
        """Remember a machine; true when it was known already."""
        self._database.check()
        known = self._machines.get(vm.id)
        if known is None:
            self._seq += 1
            known = self._machines[vm.id] = Machine(vm, self._seq)
            updated = False
        else:
            known.vm, updated = vm, True
        self._database.write(_PUT_VM, vm.id, known.seq, msgspec.msgpack.encode(vm))
        return updated

    def put_device(self, kind: Kind, record: AnyDevice) -> bool:
        """Remember a device of a known machine; true when it was known already."""
        devices = self.find(record.id.vm).devices.setdefault(kind, {})
        known = devices.get(record.id.dev)
        if known is None:
            self._database.check()
            devices[record.id.dev] = Device(record)
        else:
            known.record = record
        self._write_device(kind, devices[record.id.dev])
        return known is not None

    def set_active(self, kind: Kind, vm: str, dev: str, active: bool) -> None:
        """Note whether a device is meant to be plugged."""
        device = self.find(vm).device(kind, dev)
        if device.active != active:
            device.active = active
            self._write_device(kind, device)

    def remove_device(self, kind: Kind, vm: str, dev: str) -> None:
        """Forget a device; raises `DoesNotExist`."""
        machine = self.find(vm)
        machine.device(kind, dev)
        self._database.check()
        del machine.devices[kind][dev]
        self._database.write("DELETE FROM devices WHERE vm = ? AND kind = ? AND dev = ?", vm, kind.value, dev)

    def remove(self, id: str) -> None:
        """Forget a machine and its devices; raises `DoesNotExist`."""
        self._database.check()
        self.find(id)
        del self._machines[id]
        self._database.write("DELETE FROM machines WHERE id = ?", id)
        self._database.write("DELETE FROM devices WHERE vm = ?", id)

    def put_metadata(self, metadata: Metadata) -> tuple[bool, list[tuple[Kind, str]]]:
        """Remember a machine with all its devices; says whether it was known, and which devices are no more."""
        updated = self.put(metadata.vm)
        machine = self.find(metadata.vm.id)
        wanted: dict[Kind, Sequence[AnyDevice]] = {
            Kind.VBD: metadata.vbds,
            Kind.VIF: metadata.vifs,
            Kind.PCI: metadata.pcis,
            Kind.VGPU: metadata.vgpus,
            Kind.VUSB: metadata.vusbs,
        }
        gone: list[tuple[Kind, str]] = []
        for kind, records in wanted.items():
            names = {record.id.dev for record in records}
            for dev in [dev for dev in machine.devices.get(kind, {}) if dev not in names]:
                self.remove_device(kind, machine.id, dev)
                gone.append((kind, dev))
            for record in records:
                self.put_device(kind, record)
        return updated, gone

    def _write_device(self, kind: Kind, device: Device) -> None:  # type: ignore[type-arg]
        id = device.record.id
        self._seq += 1
        body = msgspec.msgpack.encode(device.record)
        self._database.write(_PUT_DEVICE, id.vm, kind.value, id.dev, self._seq, int(device.active), body)

    def __contains__(self, id: object) -> bool:
        return id in self._machines

    def __iter__(self) -> Iterator[Machine]:
        return iter(tuple(self._machines.values()))

    def __len__(self) -> int:
        return len(self._machines)
