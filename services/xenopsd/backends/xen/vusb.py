# SPDX-License-Identifier: Apache-2.0
"""USB devices: none can be passed through yet, and each call says so."""

from xenops.errors import Unimplemented
from xenops.types.vm import Vm
from xenops.types.vusb import Vusb, VusbState
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.world import World


class XenVusb:
    """USB devices."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def plug(self, vm: Vm, vusb: Vusb) -> None:
        raise Unimplemented("vusb.plug on Xen")

    async def unplug(self, vm: Vm, vusb: Vusb) -> None:
        return

    async def state(self, vm: Vm, vusb: Vusb) -> VusbState:
        return VusbState()

    async def get_action(self, vm: Vm, vusb: Vusb) -> DeviceAction | None:
        return None
