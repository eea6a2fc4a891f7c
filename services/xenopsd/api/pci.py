# SPDX-License-Identifier: Apache-2.0
"""Passed-through PCI devices."""

from xenops.events import Kind
from xenops.interfaces.xenops import PCI
from xenops.types.ids import DeviceId
from xenops.types.pci import Pci, PciStat
from xenops.types.pci_address import PciAddress
from xenopsd.control import Control
from xenopsd.devices import Devices


class PciApi(PCI):
    """Passed-through PCI devices."""

    def __init__(self, control: Control, devices: Devices) -> None:
        self._control, self._devices = control, devices

    async def add(self, pci: Pci) -> DeviceId:
        return await self._devices.add(Kind.PCI, pci)

    async def remove(self, id: DeviceId) -> None:
        await self._devices.remove(Kind.PCI, id)

    async def plug(self, id: DeviceId) -> str:
        return await self._devices.plug(Kind.PCI, id)

    async def unplug(self, id: DeviceId) -> str:
        return await self._devices.unplug(Kind.PCI, id, force=True)

    async def stat(self, id: DeviceId) -> PciStat:
        record, state = await self._devices.stat(Kind.PCI, id)
        return PciStat(pci=record, state=state)

    async def list(self, vm: str) -> list[PciStat]:
        return [PciStat(pci=record, state=state) for record, state in await self._devices.all_of(Kind.PCI, vm)]

    async def dequarantine(self, address: PciAddress) -> None:
        await self._control.backend.pci.dequarantine(address)
