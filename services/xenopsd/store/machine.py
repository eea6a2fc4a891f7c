# SPDX-License-Identifier: Apache-2.0
"""A machine as it is remembered: its record and its devices of every kind."""

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from msgspec.structs import replace

from xenops.errors import DoesNotExist
from xenops.events import Kind
from xenops.types.disk import Disk
from xenops.types.metadata import Metadata
from xenops.types.network import Network
from xenops.types.pci import Pci
from xenops.types.vbd import Vbd
from xenops.types.vgpu import Vgpu
from xenops.types.vif import Vif
from xenops.types.vm import Vm
from xenops.types.vusb import Vusb
from xenopsd.backends.port import twin_id

D = TypeVar("D", Vbd, Vif, Pci, Vusb, Vgpu)
AnyDevice = Vbd | Vif | Pci | Vusb | Vgpu

RECORDS: dict[Kind, type[Any]] = {Kind.VBD: Vbd, Kind.VIF: Vif, Kind.PCI: Pci, Kind.VUSB: Vusb, Kind.VGPU: Vgpu}


def vm_key(id: str) -> tuple[str, ...]:
    """What the seal of a VM's record holds beside it."""
    return "machines", "body", id


def device_key(vm: str, kind: Kind, dev: str) -> tuple[str, ...]:
    """What the seal of a device's record holds beside it."""
    return "devices", "body", vm, kind.value, dev


def twin_of(metadata: Metadata) -> Metadata:
    """The same machine under an id of its own, always the same one: its second domain needs a handle while there are two."""
    id = twin_id(metadata.vm.id)

    def renamed(records: list[D]) -> list[D]:
        return [replace(record, id=replace(record.id, vm=id)) for record in records]

    return replace(
        metadata,
        vm=replace(metadata.vm, id=id),
        vbds=renamed(metadata.vbds),
        vifs=renamed(metadata.vifs),
        pcis=renamed(metadata.pcis),
        vgpus=renamed(metadata.vgpus),
        vusbs=renamed(metadata.vusbs),
    )


def redirected(metadata: Metadata, disks: dict[str, Disk], networks: dict[str, Network]) -> Metadata:
    """The same machine with these drives on other disks, and these interfaces on other networks. Raises `DoesNotExist`."""
    for kind, known, named in (("VBD", metadata.vbds, disks), ("VIF", metadata.vifs, networks)):
        for dev in named.keys() - {record.id.dev for record in known}:
            raise DoesNotExist(kind, f"{metadata.vm.id}.{dev}")
    return replace(
        metadata,
        vbds=[replace(it, backend=disks[it.id.dev]) if it.id.dev in disks else it for it in metadata.vbds],
        vifs=[replace(it, backend=networks[it.id.dev]) if it.id.dev in networks else it for it in metadata.vifs],
    )


@dataclass(slots=True)
class Device(Generic[D]):
    """A device's record, and whether it is meant to be plugged now."""

    record: D
    active: bool = False


@dataclass(slots=True)
class Machine:
    """One registered VM; `devices` by kind and name, in the order in which they were added."""

    vm: Vm
    seq: int
    devices: dict[Kind, dict[str, Device[Any]]] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """The VM's id."""
        return self.vm.id

    def of(self, kind: Kind) -> list[Any]:
        """The records of its devices of a kind."""
        return [device.record for device in self.devices.get(kind, {}).values()]

    def device(self, kind: Kind, dev: str) -> Device[Any]:
        """One device; raises `DoesNotExist`."""
        found = self.devices.get(kind, {}).get(dev)
        if found is None:
            raise DoesNotExist(kind.name, f"{self.id}.{dev}")
        return found

    def put_device(self, kind: Kind, record: AnyDevice) -> None:
        """It has this device, in place of one of the same name."""
        devices = self.devices.setdefault(kind, {})
        if (known := devices.get(record.id.dev)) is None:
            devices[record.id.dev] = Device(record)
        else:
            known.record = record

    def remove_device(self, kind: Kind, dev: str) -> None:
        """It has this device no more."""
        self.devices.get(kind, {}).pop(dev, None)

    @classmethod
    def from_metadata(cls, metadata: Metadata) -> "Machine":
        """A machine as it has travelled; nothing of it is plugged."""
        machine = cls(metadata.vm, 0)
        for kind, records in (
            (Kind.VBD, metadata.vbds),
            (Kind.VIF, metadata.vifs),
            (Kind.PCI, metadata.pcis),
            (Kind.VGPU, metadata.vgpus),
            (Kind.VUSB, metadata.vusbs),
        ):
            for record in records:
                machine.put_device(kind, record)
        return machine

    def metadata(self) -> Metadata:
        """The machine as it travels, without the backend's own state."""
        return Metadata(
            vm=self.vm,
            vbds=self.of(Kind.VBD),
            vifs=self.of(Kind.VIF),
            pcis=self.of(Kind.PCI),
            vgpus=self.of(Kind.VGPU),
            vusbs=self.of(Kind.VUSB),
        )
