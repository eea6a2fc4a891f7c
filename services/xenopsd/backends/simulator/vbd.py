# SPDX-License-Identifier: Apache-2.0
"""Simulated drives."""

from typing import ClassVar

from xenops.errors import AlreadyExists, BadRequest, DeviceDetachRejected, DeviceNotConnected, MediaPresent
from xenops.types.device_number import Bus, DeviceNumber
from xenops.types.disk import Disk, RemoteDisk
from xenops.types.record import UNSET
from xenops.types.vbd import Qos, Vbd, VbdState
from xenops.types.vm import Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.simulator.injection import Noun, gated
from xenopsd.backends.simulator.world.domain import Domain, Drive

_IDE_DISKS = 4


class SimulatedVbd(Noun):
    """Drives. Their contents are not modelled: an epoch has nothing to reset."""

    noun: ClassVar[str] = "vbd"

    @gated
    async def plug(self, vm: Vm, vbd: Vbd) -> None:
        domain = self._world.domain(vm.id)
        if vbd.backend is UNSET and not domain.hvm:
            return  # an empty drive that no device model shows is no device at all
        self._attach(domain, vbd)

    @gated
    async def unplug(self, vm: Vm, vbd: Vbd, *, force: bool) -> None:
        domain = self._world.find(vm.id)
        if domain is None or vbd.id.dev not in domain.vbds:
            return
        if not force and not domain.behaviour.releases and domain.shutdown is None:
            raise DeviceDetachRejected("VBD", str(vbd.id), "the drive is in use")
        del domain.vbds[vbd.id.dev]
        self._world.commit(domain)

    @gated
    async def insert(self, vm: Vm, vbd: Vbd, disk: Disk) -> None:
        domain = self._world.domain(vm.id)
        drive = domain.vbds.get(vbd.id.dev)
        if drive is None and not domain.hvm:
            self._attach(domain, vbd, disk)
            return
        if drive is None:
            raise DeviceNotConnected("vbd", str(vbd.id))
        if drive.medium is not UNSET:
            raise MediaPresent(str(vbd.id))
        drive.medium = disk
        self._world.commit(domain)

    @gated
    async def eject(self, vm: Vm, vbd: Vbd) -> None:
        domain = self._world.find(vm.id)
        if domain is None or vbd.id.dev not in domain.vbds:
            return
        if domain.hvm:
            domain.vbds[vbd.id.dev].medium = UNSET
        else:
            del domain.vbds[vbd.id.dev]
        self._world.commit(domain)

    @gated
    async def epoch_begin(self, vm: Vm, vbd: Vbd) -> None:
        return

    @gated
    async def epoch_end(self, vm: Vm, vbd: Vbd) -> None:
        return

    @gated
    async def set_qos(self, vm: Vm, vbd: Vbd, qos: Qos | None) -> None:
        domain = self._world.domain(vm.id)
        drive = domain.vbds.get(vbd.id.dev)
        if drive is None:
            raise DeviceNotConnected("vbd", str(vbd.id))
        drive.qos = UNSET if qos is None else qos
        self._world.commit(domain)

    @gated
    async def state(self, vm: Vm, vbd: Vbd) -> VbdState:
        domain = self._world.find(vm.id)
        drive = None if domain is None else domain.vbds.get(vbd.id.dev)
        if drive is None:
            return VbdState()
        return VbdState(plugged=True, qos_target=drive.qos, backend_present=drive.medium)

    @gated
    async def get_action(self, vm: Vm, vbd: Vbd) -> DeviceAction | None:
        domain = self._world.find(vm.id)
        drive = None if domain is None else domain.vbds.get(vbd.id.dev)
        if drive is None:
            return None
        if drive.offline:
            return DeviceAction.UNPLUG
        return DeviceAction.SET_QOS if drive.qos != vbd.qos else None

    def _attach(self, domain: Domain, vbd: Vbd, disk: Disk | None = None) -> None:
        number = _number(domain, vbd)
        taken = {drive.devid for drive in domain.vbds.values()}
        if number.to_key() in taken or vbd.id.dev in domain.vbds:
            raise AlreadyExists("vbd", number.name if vbd.position is UNSET else vbd.position)
        medium = vbd.backend if disk is None else disk
        if isinstance(medium, RemoteDisk):
            self._world.domain(medium.vm)  # the driver domain has to run
        domain.vbds[vbd.id.dev] = Drive(vbd, number.to_key(), medium, vbd.qos)
        self._world.commit(domain)


def _number(domain: Domain, vbd: Vbd) -> DeviceNumber:
    """Where the drive goes: where it says, or behind the last one."""
    if vbd.position is not UNSET:
        try:
            return DeviceNumber.parse(vbd.position, hvm=domain.hvm)
        except ValueError as error:
            raise BadRequest("position", str(error)) from error
    disks = [DeviceNumber.from_key(drive.devid).disk for drive in domain.vbds.values()]
    disk = 1 + max(disks, default=-1)
    return DeviceNumber(Bus.IDE if domain.hvm and disk < _IDE_DISKS else Bus.XEN, disk)
