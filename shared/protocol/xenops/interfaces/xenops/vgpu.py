# SPDX-License-Identifier: Apache-2.0
"""Virtual graphics processors of a machine."""

from typing import ClassVar, Protocol

from xenops.errors import Busy, DeviceIsConnected, DoesNotExist
from xenops.idl import Interface, rpc
from xenops.types.ids import DeviceId, VmId
from xenops.types.vgpu import Vgpu, VgpuStat


class VGPU(Interface, Protocol):
    """Virtual graphics processors of a machine; they come and go with it."""

    name: ClassVar[str] = "VGPU"

    @rpc(raises=(DoesNotExist,))
    async def add(self, vgpu: Vgpu) -> DeviceId:
        """Remember a virtual GPU; it is there when its machine starts."""

    @rpc(raises=(DoesNotExist, DeviceIsConnected, Busy))
    async def remove(self, id: DeviceId) -> None:
        """Forget a virtual GPU; its machine must not be using it."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def stat(self, id: DeviceId) -> VgpuStat:
        """The virtual GPU as registered and as it is."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def list(self, vm: VmId) -> list[VgpuStat]:
        """The virtual GPUs of a machine."""
