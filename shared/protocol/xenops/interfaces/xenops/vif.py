# SPDX-License-Identifier: Apache-2.0
"""Network interfaces of a machine."""

from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import BadPowerState, BadRequest, Busy, DeviceIsConnected, DoesNotExist
from xenops.idl import Interface, rpc
from xenops.types.ids import DeviceId, TaskId, VmId
from xenops.types.network import Network
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif, VifStat

QUEUED = (DoesNotExist, Busy)


class VIF(Interface, Protocol):
    """Network interfaces of a machine."""

    name: ClassVar[str] = "VIF"

    @rpc(raises=(DoesNotExist, BadRequest))
    async def add(self, vif: Vif) -> DeviceId:
        """Remember an interface; a `mac` of "random" or "" is replaced by a real one."""

    @rpc(raises=(DoesNotExist, DeviceIsConnected, Busy))
    async def remove(self, id: DeviceId) -> None:
        """Forget an interface; it must be unplugged."""

    @rpc(raises=(*QUEUED, BadPowerState))
    async def plug(self, id: DeviceId) -> TaskId:
        """Show the interface to the running guest and bring the link up."""

    @rpc(raises=QUEUED)
    async def unplug(self, id: DeviceId, force: bool = False) -> TaskId:
        """Take the interface away; without `force` the guest is asked first and may refuse."""

    @rpc(raises=QUEUED)
    async def move(self, id: DeviceId, network: Network) -> TaskId:
        """Connect the interface to another network without unplugging it."""

    @rpc(raises=QUEUED)
    async def set_carrier(self, id: DeviceId, carrier: bool) -> TaskId:
        """Plug the virtual cable in or out."""

    @rpc(raises=QUEUED)
    async def set_locking_mode(self, id: DeviceId, mode: LockingMode) -> TaskId:
        """Which traffic may pass."""

    @rpc(raises=QUEUED)
    async def set_ipv4_configuration(self, id: DeviceId, configuration: Ipv4Configuration) -> TaskId:
        """Hint to the guest how to set up IPv4."""

    @rpc(raises=QUEUED)
    async def set_ipv6_configuration(self, id: DeviceId, configuration: Ipv6Configuration) -> TaskId:
        """Hint to the guest how to set up IPv6."""

    @rpc(raises=QUEUED)
    async def set_pvs_proxy(self, id: DeviceId, proxy: PvsProxy | None = None) -> TaskId:
        """Put a boot-disk cache in front of the interface, or take it away."""

    @rpc(raises=QUEUED)
    async def set_trunks(self, id: DeviceId, trunks: list[Annotated[int, Meta(ge=0, le=4095)]]) -> TaskId:
        """The VLANs that reach the interface tagged."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def stat(self, id: DeviceId) -> VifStat:
        """The interface as registered and as it is."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def list(self, vm: VmId) -> list[VifStat]:
        """The interfaces of a machine."""
