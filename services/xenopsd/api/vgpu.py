# SPDX-License-Identifier: Apache-2.0
"""Virtual graphics processors."""

from xenops.events import Kind
from xenops.interfaces.xenops import VGPU
from xenops.types.ids import DeviceId
from xenops.types.vgpu import Vgpu, VgpuStat
from xenopsd.devices import Devices


class VgpuApi(VGPU):
    """Virtual graphics processors."""

    def __init__(self, devices: Devices) -> None:
        self._devices = devices

    async def add(self, vgpu: Vgpu) -> DeviceId:
        return await self._devices.add(Kind.VGPU, vgpu)

    async def remove(self, id: DeviceId) -> None:
        await self._devices.remove(Kind.VGPU, id)

    async def stat(self, id: DeviceId) -> VgpuStat:
        record, state = await self._devices.stat(Kind.VGPU, id)
        return VgpuStat(vgpu=record, state=state)

    async def list(self, vm: str) -> list[VgpuStat]:
        return [VgpuStat(vgpu=record, state=state) for record, state in await self._devices.all_of(Kind.VGPU, vm)]
