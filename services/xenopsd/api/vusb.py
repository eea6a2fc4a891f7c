# SPDX-License-Identifier: Apache-2.0
"""Passed-through USB devices."""

from xenops.events import Kind
from xenops.interfaces.xenops import VUSB
from xenops.types.ids import DeviceId
from xenops.types.vusb import Vusb, VusbStat
from xenopsd.devices import Devices


class VusbApi(VUSB):
    """Passed-through USB devices."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    async def add(self, vusb: Vusb) -> DeviceId:
        return await self._devices.add(Kind.VUSB, vusb)

    async def remove(self, id: DeviceId) -> None:
        await self._devices.remove(Kind.VUSB, id)

    async def plug(self, id: DeviceId) -> str:
        return await self._devices.plug(Kind.VUSB, id)

    async def unplug(self, id: DeviceId) -> str:
        return await self._devices.unplug(Kind.VUSB, id, force=True)

    async def stat(self, id: DeviceId) -> VusbStat:
        record, state = await self._devices.stat(Kind.VUSB, id)
        return VusbStat(vusb=record, state=state)

    async def list(self, vm: str) -> list[VusbStat]:
        return [VusbStat(vusb=record, state=state) for record, state in await self._devices.all_of(Kind.VUSB, vm)]
