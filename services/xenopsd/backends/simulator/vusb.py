# SPDX-License-Identifier: Apache-2.0
"""Simulated passed-through USB devices: a device model shows them, so only HVM guests have them."""

from typing import ClassVar

from xenops.errors import AlreadyExists, Unimplemented
from xenops.types.vm import Vm
from xenops.types.vusb import Vusb, VusbState
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.simulator.injection import Noun, gated
from xenopsd.backends.simulator.world.domain import PassedUsb


class SimulatedVusb(Noun):
    """USB devices."""

    noun: ClassVar[str] = "vusb"

    @gated
    async def plug(self, vm: Vm, vusb: Vusb) -> None:
        domain = self._world.domain(vm.id)
        if not domain.hvm:
            raise Unimplemented("vusb.plug")
        if vusb.id.dev in domain.vusbs:
            raise AlreadyExists("vusb", vusb.id.dev)
        domain.vusbs[vusb.id.dev] = PassedUsb(vusb)
        self._world.commit(domain)

    @gated
    async def unplug(self, vm: Vm, vusb: Vusb) -> None:
        domain = self._world.find(vm.id)
        if domain is not None and domain.vusbs.pop(vusb.id.dev, None) is not None:
            self._world.commit(domain)

    @gated
    async def state(self, vm: Vm, vusb: Vusb) -> VusbState:
        domain = self._world.find(vm.id)
        return VusbState(plugged=domain is not None and vusb.id.dev in domain.vusbs)

    @gated
    async def get_action(self, vm: Vm, vusb: Vusb) -> DeviceAction | None:
        domain = self._world.find(vm.id)
        passed = None if domain is None else domain.vusbs.get(vusb.id.dev)
        return DeviceAction.UNPLUG if passed is not None and passed.offline else None
