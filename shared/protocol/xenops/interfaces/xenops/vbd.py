# SPDX-License-Identifier: Apache-2.0
"""Drives of a machine: disks, CDs, floppies."""

from typing import ClassVar, Protocol

from xenops.errors import (
    BadPowerState,
    BadRequest,
    Busy,
    DeviceIsConnected,
    DoesNotExist,
    MediaNotEjectable,
    MediaNotPresent,
    MediaPresent,
)
from xenops.idl import Interface, rpc
from xenops.types.disk import Disk
from xenops.types.ids import DeviceId, TaskId, VmId
from xenops.types.vbd import Vbd, VbdStat


class VBD(Interface, Protocol):
    """Drives of a machine: disks, CDs, floppies."""

    name: ClassVar[str] = "VBD"

    @rpc(raises=(DoesNotExist, BadRequest))
    async def add(self, vbd: Vbd) -> DeviceId:
        """Remember a drive; it is plugged when its machine starts, or by `plug`."""

    @rpc(raises=(DoesNotExist, DeviceIsConnected, Busy))
    async def remove(self, id: DeviceId) -> None:
        """Forget a drive; it must be unplugged."""

    @rpc(raises=(DoesNotExist, BadPowerState, Busy))
    async def plug(self, id: DeviceId) -> TaskId:
        """Show the drive to the running guest."""

    @rpc(raises=(DoesNotExist, Busy))
    async def unplug(self, id: DeviceId, force: bool = False) -> TaskId:
        """Take the drive away; without `force` the guest is asked first and may refuse."""

    @rpc(raises=(DoesNotExist, BadPowerState, MediaNotEjectable, MediaNotPresent, Busy))
    async def eject(self, id: DeviceId) -> TaskId:
        """Take the medium out of a CD or floppy drive; the machine must be Running or Paused."""

    @rpc(raises=(DoesNotExist, BadPowerState, MediaNotEjectable, MediaPresent, Busy))
    async def insert(self, id: DeviceId, disk: Disk) -> TaskId:
        """Put a medium into an empty CD or floppy drive; the machine must be Running or Paused."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def stat(self, id: DeviceId) -> VbdStat:
        """The drive as registered and as it is."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def list(self, vm: VmId) -> list[VbdStat]:
        """The drives of a machine."""
