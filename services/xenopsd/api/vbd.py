# SPDX-License-Identifier: Apache-2.0
"""Drives."""

from xenops.errors import BadRequest
from xenops.events import Kind
from xenops.interfaces.xenops import VBD
from xenops.types.device_number import DeviceNumber
from xenops.types.disk import Disk
from xenops.types.ids import DeviceId
from xenops.types.vbd import Vbd, VbdStat
from xenopsd.control import Control
from xenopsd.devices import Devices
from xenopsd.operations.devices import Eject, Insert


class VbdApi(VBD):
    """Drives."""

    def __init__(self, control: Control, devices: Devices) -> None:
        self._control, self._devices = control, devices

    async def add(self, vbd: Vbd) -> DeviceId:
        if isinstance(vbd.position, str):
            try:
                DeviceNumber.parse(vbd.position)
            except ValueError as error:
                raise BadRequest("params.vbd.position", str(error)) from None
        return await self._devices.add(Kind.VBD, vbd)

    async def remove(self, id: DeviceId) -> None:
        await self._devices.remove(Kind.VBD, id)

    async def plug(self, id: DeviceId) -> str:
        return await self._devices.plug(Kind.VBD, id)

    async def unplug(self, id: DeviceId, force: bool = False) -> str:
        return await self._devices.unplug(Kind.VBD, id, force=force)

    async def stat(self, id: DeviceId) -> VbdStat:
        record, state = await self._devices.stat(Kind.VBD, id)
        return VbdStat(vbd=record, state=state)

    async def list(self, vm: str) -> list[VbdStat]:
        return [VbdStat(vbd=record, state=state) for record, state in await self._devices.all_of(Kind.VBD, vm)]

    async def eject(self, id: DeviceId) -> str:
        self._devices.find(Kind.VBD, id)
        return await self._control.begin(Eject(vm=id.vm, dev=id.dev))

    async def insert(self, id: DeviceId, disk: Disk) -> str:
        self._devices.find(Kind.VBD, id)
        return await self._control.begin(Insert(vm=id.vm, dev=id.dev, disk=disk))
