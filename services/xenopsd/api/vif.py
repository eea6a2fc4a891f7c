# SPDX-License-Identifier: Apache-2.0
"""Network interfaces."""

import builtins

from xenops.events import Kind
from xenops.interfaces.xenops import VIF
from xenops.types.ids import DeviceId
from xenops.types.network import Network
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif, VifStat
from xenopsd.control import Control
from xenopsd.devices import Devices
from xenopsd.operations import settings
from xenopsd.operations.operation import Operation


class VifApi(VIF):
    """Network interfaces."""

    def __init__(self, control: Control, devices: Devices) -> None:
        self._control, self._devices = control, devices

    async def _queue(self, id: DeviceId, operation: Operation) -> str:
        self._devices.find(Kind.VIF, id)
        return await self._control.begin(operation)

    async def add(self, vif: Vif) -> DeviceId:
        return await self._devices.add(Kind.VIF, self._devices.with_mac(vif))

    async def remove(self, id: DeviceId) -> None:
        await self._devices.remove(Kind.VIF, id)

    async def plug(self, id: DeviceId) -> str:
        return await self._devices.plug(Kind.VIF, id)

    async def unplug(self, id: DeviceId, force: bool = False) -> str:
        return await self._devices.unplug(Kind.VIF, id, force=force)

    async def stat(self, id: DeviceId) -> VifStat:
        record, state = await self._devices.stat(Kind.VIF, id)
        return VifStat(vif=record, state=state)

    async def list(self, vm: str) -> list[VifStat]:
        return [VifStat(vif=record, state=state) for record, state in await self._devices.all_of(Kind.VIF, vm)]

    async def move(self, id: DeviceId, network: Network) -> str:
        return await self._queue(id, settings.Move(vm=id.vm, dev=id.dev, network=network))

    async def set_carrier(self, id: DeviceId, carrier: bool) -> str:
        return await self._queue(id, settings.SetCarrier(vm=id.vm, dev=id.dev, carrier=carrier))

    async def set_locking_mode(self, id: DeviceId, mode: LockingMode) -> str:
        return await self._queue(id, settings.SetLockingMode(vm=id.vm, dev=id.dev, mode=mode))

    async def set_ipv4_configuration(self, id: DeviceId, configuration: Ipv4Configuration) -> str:
        return await self._queue(id, settings.SetIpv4Configuration(vm=id.vm, dev=id.dev, configuration=configuration))

    async def set_ipv6_configuration(self, id: DeviceId, configuration: Ipv6Configuration) -> str:
        return await self._queue(id, settings.SetIpv6Configuration(vm=id.vm, dev=id.dev, configuration=configuration))

    async def set_pvs_proxy(self, id: DeviceId, proxy: PvsProxy | None = None) -> str:
        return await self._queue(id, settings.SetPvsProxy(vm=id.vm, dev=id.dev, proxy=proxy))

    async def set_trunks(self, id: DeviceId, trunks: builtins.list[int]) -> str:
        return await self._queue(id, settings.SetTrunks(vm=id.vm, dev=id.dev, trunks=trunks))
