# SPDX-License-Identifier: Apache-2.0
"""PCI devices of the host, given to a machine."""

from typing import ClassVar, Protocol

from xenops.errors import BadPowerState, Busy, DeviceIsConnected, DoesNotExist, Unimplemented
from xenops.idl import Interface, rpc
from xenops.types.ids import DeviceId, TaskId, VmId
from xenops.types.pci import Pci, PciStat
from xenops.types.pci_address import PciAddress


class PCI(Interface, Protocol):
    """PCI devices of the host, given to a machine."""

    name: ClassVar[str] = "PCI"

    @rpc(raises=(DoesNotExist,))
    async def add(self, pci: Pci) -> DeviceId:
        """Remember a device; it is plugged when its machine starts, or by `plug`."""

    @rpc(raises=(DoesNotExist, DeviceIsConnected, Busy))
    async def remove(self, id: DeviceId) -> None:
        """Forget a device; it must be unplugged."""

    @rpc(raises=(DoesNotExist, BadPowerState, Busy))
    async def plug(self, id: DeviceId) -> TaskId:
        """Give the device to the running guest."""

    @rpc(raises=(DoesNotExist, Busy))
    async def unplug(self, id: DeviceId) -> TaskId:
        """Take the device away from the guest."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def stat(self, id: DeviceId) -> PciStat:
        """The device as registered and as it is."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def list(self, vm: VmId) -> list[PciStat]:
        """The devices of a machine."""

    @rpc(raises=(Unimplemented,))
    async def dequarantine(self, address: PciAddress) -> None:
        """Give a device back to the host that was set aside after a guest used it."""
