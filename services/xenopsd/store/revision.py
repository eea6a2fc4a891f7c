# SPDX-License-Identifier: Apache-2.0
"""What is to change of one machine, from what it is to what it shall be.

Built up while nobody else changes the machine; it reads what is so, and makes nothing so before it is committed.
"""

from collections.abc import Callable, Sequence
from functools import partial

import msgspec

from xenops.errors import DoesNotExist
from xenops.events import Kind
from xenops.types.metadata import Metadata
from xenops.types.vm import Vm
from xenopsd.store.database import Database
from xenopsd.store.machine import AnyDevice, Machine, device_key, vm_key
from xenopsd.store.seal import seal
from xenopsd.store.transaction import Transaction

_PUT_VM = "INSERT INTO machines VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET body = excluded.body"
# Whether a device is active is noted beside its record, by whoever plugs it: a new record leaves it as it is.
_PUT_DEVICE = """INSERT INTO devices VALUES (?, ?, ?, ?, 0, ?)
    ON CONFLICT (vm, kind, dev) DO UPDATE SET body = excluded.body"""


class Revision(Transaction):
    """A change of one machine and of its devices."""

    def __init__(self, database: Database, machines: dict[str, Machine], id: str, next_seq: Callable[[], int]) -> None:
        super().__init__(database)
        self._machines, self._id, self._next_seq = machines, id, next_seq
        self._machine = machines.get(id)

    @property
    def machine(self) -> Machine:
        """The machine as it is; raises `DoesNotExist`."""
        if self._machine is None:
            raise DoesNotExist("VM", self._id)
        return self._machine

    def put(self, vm: Vm) -> bool:
        """Remember the machine; true when it was known already."""
        updated = self._machine is not None
        machine = self._machine = self._machine or Machine(vm, self._next_seq())
        self.write(_PUT_VM, vm.id, machine.seq, seal(msgspec.msgpack.encode(vm), *vm_key(vm.id)))

        def effect() -> None:
            machine.vm = vm
            self._machines[vm.id] = machine

        self.then(effect)
        return updated

    def put_device(self, kind: Kind, record: AnyDevice) -> bool:
        """Remember a device; true when it was known already. Raises `DoesNotExist` without its machine."""
        machine, dev = self.machine, record.id.dev
        body = seal(msgspec.msgpack.encode(record), *device_key(machine.id, kind, dev))
        self.write(_PUT_DEVICE, machine.id, kind.value, dev, self._next_seq(), body)
        self.then(partial(machine.put_device, kind, record))
        return dev in machine.devices.get(kind, {})

    def remove_device(self, kind: Kind, dev: str) -> None:
        """Forget a device; raises `DoesNotExist`."""
        machine = self.machine
        machine.device(kind, dev)
        self.write("DELETE FROM devices WHERE vm = ? AND kind = ? AND dev = ?", machine.id, kind.value, dev)
        self.then(partial(machine.remove_device, kind, dev))

    def remove(self) -> list[tuple[Kind, str]]:
        """Forget the machine and its devices, and say which those are; raises `DoesNotExist`."""
        machine = self.machine
        self.write("DELETE FROM machines WHERE id = ?", machine.id)
        self.write("DELETE FROM devices WHERE vm = ?", machine.id)
        self.then(partial(self._machines.__delitem__, machine.id))
        return [(kind, dev) for kind, devices in machine.devices.items() for dev in devices]

    def put_metadata(self, metadata: Metadata) -> tuple[bool, list[tuple[Kind, str]]]:
        """Remember the machine with all its devices; says whether it was known, and which devices are no more."""
        updated = self.put(metadata.vm)
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
            gone += [(kind, dev) for dev in self.machine.devices.get(kind, {}) if dev not in names]
            for record in records:
                self.put_device(kind, record)
        for kind, dev in gone:
            self.remove_device(kind, dev)
        return updated, gone
