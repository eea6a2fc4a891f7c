# SPDX-License-Identifier: Apache-2.0
"""What the port promises of devices."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from xenops.errors import AlreadyExists, BadRequest, DoesNotExist, Unimplemented
from xenops.types.disk import RemoteDisk
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge, Remote
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET
from xenops.types.vbd import IoniceClass, Qos, Vbd
from xenops.types.vif import Disabled
from xenopsd.backends.port import Backend, DeviceAction

Tell = Callable[..., None]


def test_a_drive_is_plugged_and_unplugged(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        vbd = lab.a_disk(machine.vm, "xvdh")
        assert not (await backend.vbd.state(machine.vm, vbd)).plugged
        await backend.vbd.plug(machine.vm, vbd)
        state = await backend.vbd.state(machine.vm, vbd)
        assert (state.active, state.plugged, state.backend_present) == (False, True, vbd.backend)
        assert await backend.vbd.get_action(machine.vm, vbd) is None
        for _ in range(2):
            await backend.vbd.unplug(machine.vm, vbd, force=False)
            assert not (await backend.vbd.state(machine.vm, vbd)).plugged

    tell(kind, story, answering=True, drivers=True)


def test_two_drives_in_one_place_are_refused(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        first = lab.a_disk(machine.vm, "xvdh")
        other = msgspec.structs.replace(first, id=DeviceId(vm=machine.vm.id, dev="other"))
        await backend.vbd.plug(machine.vm, first)
        for again in (first, other):
            with pytest.raises(AlreadyExists):
                await backend.vbd.plug(machine.vm, again)
        assert (await backend.vbd.state(machine.vm, first)).plugged
        await backend.vbd.unplug(machine.vm, first, force=True)

    tell(kind, story)


def test_drives_without_a_place_get_the_next(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        drives = [
            Vbd(id=DeviceId(vm=machine.vm.id, dev=f"auto{n}"), backend=lab.a_medium(f"auto{n}")) for n in range(3)
        ]
        for vbd in drives:
            await backend.vbd.plug(machine.vm, vbd)
        assert all([(await backend.vbd.state(machine.vm, vbd)).plugged for vbd in drives])
        for vbd in drives:
            await backend.vbd.unplug(machine.vm, vbd, force=True)

    tell(kind, story)


def test_nothing_is_plugged_into_a_machine_without_a_domain(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        with pytest.raises(DoesNotExist):
            await backend.vbd.plug(machine.vm, machine.metadata.vbds[0])
        with pytest.raises(DoesNotExist):
            await backend.vif.plug(machine.vm, machine.metadata.vifs[0])
        assert not (await backend.vif.state(machine.vm, machine.metadata.vifs[0])).plugged

    tell(kind, story, started=False)


def test_media_come_and_go(tell: Tell, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        drive, vm = lab.a_cd_drive(machine.vm, "hdd"), machine.vm
        await backend.vbd.plug(vm, drive)
        for _ in range(2):
            await backend.vbd.eject(vm, drive)
            state = await backend.vbd.state(vm, drive)
            assert (state.plugged, state.backend_present) == (True, UNSET)
        other = lab.a_medium("other")
        await backend.vbd.insert(vm, drive, other)
        assert (await backend.vbd.state(vm, drive)).backend_present == other
        await backend.vbd.unplug(vm, drive, force=True)

    tell("hvm", story)


def test_an_empty_drive_of_a_guest_without_device_model_is_no_device(tell: Tell, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        vm = machine.vm
        drive = msgspec.structs.replace(lab.a_cd_drive(vm, "xvdd"), backend=UNSET)
        await backend.vbd.plug(vm, drive)
        assert not (await backend.vbd.state(vm, drive)).plugged
        await backend.vbd.insert(vm, drive, lab.a_medium("cd"))
        assert (await backend.vbd.state(vm, drive)).plugged
        await backend.vbd.eject(vm, drive)
        assert (await backend.vbd.state(vm, drive)).backend_present is UNSET

    tell("pv", story, answering=True, drivers=True)


def test_a_drive_whose_priority_is_not_the_registered_one_says_so(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        vm, vbd = machine.vm, machine.metadata.vbds[0]
        quick = Qos(ionice=IoniceClass.REAL_TIME, level=0)
        wanted = msgspec.structs.replace(vbd, qos=quick)
        assert await backend.vbd.get_action(vm, wanted) is DeviceAction.SET_QOS
        await backend.vbd.set_qos(vm, wanted, quick)
        assert await backend.vbd.get_action(vm, wanted) is None
        assert (await backend.vbd.state(vm, wanted)).qos_target == quick

    tell(kind, story)


def test_an_interface_and_its_settings(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        vm, vif = machine.vm, machine.metadata.vifs[0]
        assert (await backend.vif.state(vm, vif)).media_present
        await backend.vif.set_carrier(vm, vif, False)
        state = await backend.vif.state(vm, vif)
        assert (state.active, state.plugged, state.media_present) == (False, True, False)
        await backend.vif.set_locking_mode(vm, vif, Disabled())
        await backend.vif.move(vm, vif, Bridge(bridge="xenbr1"))
        twin = msgspec.structs.replace(vif, id=DeviceId(vm=vm.id, dev="twin"))
        with pytest.raises(AlreadyExists):
            await backend.vif.plug(vm, twin)
        for _ in range(2):
            await backend.vif.unplug(vm, vif, force=False)
            assert not (await backend.vif.state(vm, vif)).plugged

    tell(kind, story, answering=True, drivers=True)


def test_what_a_domain_serves_that_does_not_run_cannot_be_had(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        vm, vif = machine.vm, machine.metadata.vifs[0]
        drive = Vbd(id=DeviceId(vm=vm.id, dev="xvdh"), position="xvdh", backend=RemoteDisk(vm="nobody", path="/dev/a"))
        with pytest.raises(DoesNotExist):
            await backend.vbd.plug(vm, drive)
        other = msgspec.structs.replace(
            vif, id=DeviceId(vm=vm.id, dev="7"), position=7, backend=Remote(vm="nobody", bridge="b")
        )
        with pytest.raises(DoesNotExist):
            await backend.vif.plug(vm, other)
        nameless = msgspec.structs.replace(other, mac="", backend=vif.backend)
        with pytest.raises(BadRequest):
            await backend.vif.plug(vm, nameless)
        assert not (await backend.vbd.state(vm, drive)).plugged
        assert not (await backend.vif.state(vm, other)).plugged

    tell(kind, story)


def test_no_pvh_guest_has_pci_devices(tell: Tell, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        pci = Pci(id=DeviceId(vm=machine.vm.id, dev="0"), address=PciAddress(bus=3, dev=0, fn=0))
        with pytest.raises(Unimplemented):
            await backend.pci.plug(machine.vm, pci)
        assert not (await backend.pci.state(machine.vm, pci)).plugged

    tell("pvh", story)


def test_a_pci_device_belongs_to_one_guest(lab: Any) -> None:
    async def run() -> None:
        async with lab.open() as backend:
            machines = [lab.a_vm(lab.pci_kind), lab.a_vm(lab.pci_kind)]
            one, two = (machine.vm for machine in machines)
            address = lab.a_function()
            for machine in machines:
                await backend.vm.create(machine)
            first = Pci(id=DeviceId(vm=one.id, dev="0"), address=address)
            second = Pci(id=DeviceId(vm=two.id, dev="0"), address=address)
            await backend.pci.plug(one, first)
            with pytest.raises(AlreadyExists):
                await backend.pci.plug(two, second)
            assert (await backend.pci.state(one, first)).plugged
            for _ in range(2):
                await backend.pci.unplug(one, first)
            await backend.pci.dequarantine(address)
            await backend.pci.plug(two, second)
            assert (await backend.pci.state(two, second)).plugged
            for vm in (one, two):
                await backend.vm.destroy(vm)
            assert not (await backend.pci.state(two, second)).plugged
            await backend.pci.dequarantine(address)

    asyncio.run(run())


def test_devices_go_with_their_domain(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        await backend.vm.destroy(machine.vm)
        await backend.vm.create(machine.metadata)
        assert not (await backend.vbd.state(machine.vm, machine.metadata.vbds[0])).plugged
        assert not (await backend.vif.state(machine.vm, machine.metadata.vifs[0])).plugged

    tell(kind, story)
