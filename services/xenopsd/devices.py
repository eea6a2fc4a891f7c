# SPDX-License-Identifier: Apache-2.0
"""What the namespaces of all device kinds have in common: remember, forget, find, and say how a device is."""

import os
from typing import Any

import msgspec

from xenops.errors import DeviceIsConnected
from xenops.events import Change, Kind
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.pci import PciState
from xenops.types.vbd import Vbd, VbdState
from xenops.types.vgpu import VgpuState
from xenops.types.vif import Vif, VifState
from xenops.types.vusb import VusbState
from xenopsd.control import Control
from xenopsd.mac import normalised
from xenopsd.operations.devices import Plug, Unplug
from xenopsd.store.machine import AnyDevice, Device, Machine
from xenopsd.store.positions import positioned

AnyState = VbdState | VifState | PciState | VusbState | VgpuState


class Devices:
    """Devices of every kind."""

    def __init__(self, control: Control) -> None:
        self._control, self._machines = control, control.machines

    async def add(self, kind: Kind, record: AnyDevice) -> DeviceId:
        """Remember a device of a registered machine. Raises `DoesNotExist`."""
        async with self._machines.changing(record.id.vm) as revision:
            if isinstance(record, Vbd):
                record = _with_position(record, revision.machine)
            updated = revision.put_device(kind, record)
            await self._control.commit(revision, record.id)
        self._control.announce(kind, str(record.id), Change.CHANGED if updated else Change.ADDED)
        return record.id

    async def remove(self, kind: Kind, id: DeviceId) -> None:
        """Forget a device that is not plugged, when it is its machine's turn."""
        self.find(kind, id)

        async def forget() -> None:
            self.find(kind, id)
            if await self.is_plugged(kind, id):
                raise DeviceIsConnected(kind.name, str(id))
            async with self._machines.changing(id.vm) as revision:
                revision.remove_device(kind, id.dev)
                await self._control.commit(revision, None)
            self._control.announce(kind, str(id), Change.REMOVED)

        await self._control.turns.take(id.vm, f"{kind.name}.remove", forget)

    async def plug(self, kind: Kind, id: DeviceId) -> str:
        """Queue the plugging; the task's id."""
        self.find(kind, id)
        return await self._control.begin(Plug(vm=id.vm, kind=kind, dev=id.dev))

    async def unplug(self, kind: Kind, id: DeviceId, *, force: bool) -> str:
        """Queue the unplugging; the task's id."""
        self.find(kind, id)
        return await self._control.begin(Unplug(vm=id.vm, kind=kind, dev=id.dev, force=force))

    async def stat(self, kind: Kind, id: DeviceId) -> tuple[Any, Any]:
        """The device's record and state. Raises `DoesNotExist`."""
        machine, device = self.find(kind, id)
        return device.record, await self._state(kind, machine, device)

    async def all_of(self, kind: Kind, vm: str) -> list[tuple[Any, Any]]:
        """The records and states of a machine's devices of a kind."""
        machine = self._machines.find(vm)
        return [
            (it.record, await self._state(kind, machine, it)) for it in list(machine.devices.get(kind, {}).values())
        ]

    async def is_plugged(self, kind: Kind, id: DeviceId) -> bool:
        """Whether the guest has the device now."""
        machine, device = self.find(kind, id)
        state: AnyState = await self._state(kind, machine, device)
        return state.plugged

    def no_longer_in(self, metadata: Metadata) -> list[tuple[Kind, DeviceId]]:
        """The devices that a machine has and that new metadata of it does not name."""
        if metadata.vm.id not in self._machines:
            return []
        named = {
            Kind.VBD: {it.id.dev for it in metadata.vbds},
            Kind.VIF: {it.id.dev for it in metadata.vifs},
            Kind.PCI: {it.id.dev for it in metadata.pcis},
            Kind.VGPU: {it.id.dev for it in metadata.vgpus},
            Kind.VUSB: {it.id.dev for it in metadata.vusbs},
        }
        devices = self._machines.find(metadata.vm.id).devices
        return [
            (kind, device.record.id)
            for kind in named
            for dev, device in devices.get(kind, {}).items()
            if dev not in named[kind]
        ]

    def positioned(self, metadata: Metadata) -> list[Vbd]:
        """The drives of a machine that is registered as a whole, each with a position."""
        known = metadata.vm.id in self._machines
        before: list[Vbd] = self._machines.find(metadata.vm.id).of(Kind.VBD) if known else []
        return positioned(metadata.vbds, metadata.vm, before)

    @staticmethod
    def with_mac(vif: Vif) -> Vif:
        """The interface with a real address in place of "random" or "". Raises `BadRequest`."""
        mac = normalised(vif.mac, vm=vif.id.vm, position=vif.position, random_bytes=os.urandom(6))
        return msgspec.structs.replace(vif, mac=mac)

    def find(self, kind: Kind, id: DeviceId) -> tuple[Machine, Device[Any]]:
        """A device and its machine. Raises `DoesNotExist`."""
        machine = self._machines.find(id.vm)
        return machine, machine.device(kind, id.dev)

    async def _state(self, kind: Kind, machine: Machine, device: Device[Any]) -> Any:
        backend, vm, record = self._control.backend, machine.vm, device.record
        match kind:
            case Kind.VBD:
                return msgspec.structs.replace(await backend.vbd.state(vm, record), active=device.active)
            case Kind.VIF:
                return msgspec.structs.replace(await backend.vif.state(vm, record), active=device.active)
            case Kind.VGPU:
                return msgspec.structs.replace(await backend.vgpu.state(vm, record), active=device.active)
            case Kind.PCI:
                return await backend.pci.state(vm, record)
            case _:
                return await backend.vusb.state(vm, record)


def _with_position(vbd: Vbd, machine: Machine) -> Vbd:
    """A drive that joins, or changes among, those of its machine. Raises `BadRequest` when no place is left."""
    before: list[Vbd] = machine.of(Kind.VBD)
    others = [it for it in before if it.id.dev != vbd.id.dev]
    return positioned([*others, vbd], machine.vm, before)[-1]
