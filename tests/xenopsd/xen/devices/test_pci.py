# SPDX-License-Identifier: Apache-2.0
"""PCI functions, on a real xenstored and a sysfs that is played: no hardware is needed to see what is done to it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.xenopsd.xen.devices.stage import Actors, Stage
from xenops.errors import AlreadyExists, DoesNotExist, HypercallFailed, IoError, PcibackNotLoaded, Unimplemented
from xenops.types.ids import DeviceId
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.vm import Direct, Pvh, Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devices.function import Region, regions, sbdf
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.pci import XenPci

Play = Callable[[Any], None]
NIC = PciAddress(bus=3, dev=0, fn=1)
RESOURCE = """0x00000000fb800000 0x00000000fb81ffff 0x0000000000040200
0x000000000000e000 0x000000000000e01f 0x0000000000040101
0x0000000000000000 0x0000000000000000 0x0000000000000000
"""


class Calls:
    """A hypervisor that notes what it is asked."""

    def __init__(self) -> None:
        self.made: list[tuple[object, ...]] = []
        self.refuses = ""

    async def assign_device(self, domid: int, number: int) -> None:
        if self.refuses:
            raise HypercallFailed("xc_assign_device", self.refuses, "refused")
        self.made.append(("assign", number))

    async def deassign_device(self, domid: int, number: int) -> None:
        self.made.append(("deassign", number))

    async def ioport_permission(self, domid: int, first: int, count: int, *, allow: bool) -> None:
        self.made.append(("ports" if allow else "no ports", first, count))

    async def iomem_permission(self, domid: int, first: int, frames: int, *, allow: bool) -> None:
        self.made.append(("memory" if allow else "no memory", first, frames))

    async def map_pirq(self, domid: int, index: int) -> int:
        return index + 100

    async def irq_permission(self, domid: int, pirq: int, *, allow: bool) -> None:
        self.made.append(("irq" if allow else "no irq", pirq))

    async def unmap_pirq(self, domid: int, pirq: int) -> None:
        self.made.append(("unmapped", pirq))


def hardware(stage: Stage, address: PciAddress = NIC, *, pciback: bool = True) -> Path:
    """A function that the driver `ixgbe` has."""
    bus = stage.sysfs / "bus/pci"
    device, driver = bus / f"devices/{address}", bus / "drivers/ixgbe"
    device.mkdir(parents=True)
    driver.mkdir(parents=True, exist_ok=True)
    if pciback:
        (bus / "drivers/pciback").mkdir(exist_ok=True)
    (device / "driver").symlink_to(driver)
    (device / "resource").write_text(RESOURCE)
    (device / "irq").write_text("16\n")
    (device / "reset").write_text("")
    return bus


def room(stage: Stage, *, let_go_s: float = 0.2) -> tuple[XenPci, Calls]:
    stage.xc = calls = Calls()
    return XenPci(stage, sysfs=stage.sysfs, let_go_s=let_go_s, meet_s=0.0), calls  # type: ignore[arg-type]


def pci(vm: Vm, position: int = 0, address: PciAddress = NIC) -> Pci:
    return Pci(id=DeviceId(vm=vm.id, dev=str(position)), position=position, address=address)


def test_a_function_belongs_to_one_guest(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        one, two = await stage.guest("one", hvm=True), await stage.guest("two")
        at, calls = room(stage)
        bus, domid = hardware(stage), stage.domains.require(one.id)
        await at.plug(one, pci(one))
        assert (
            (bus / "drivers/ixgbe/unbind").read_text() == (bus / "drivers/pciback/bind").read_text() == "0000:03:00.1"
        )
        assert calls.made == [("assign", 0x301), ("memory", 0xFB800, 32), ("ports", 0xE000, 32), ("irq", 116)]
        back = f"/local/domain/0/backend/pci/{domid}/0"
        assert await stage.xs.read_many([f"{back}/num_devs", f"{back}/dev-0"]) == ["1", "0000:03:00.1"]
        assert await stage.xs.read(f"{back}/opts-0") == "msitranslate=1,power_mgmt=0,permissive=0"
        assert stage.device_models.asked == [("attach", domid, "0000:03:00.1")]
        assert (await at.state(one, pci(one))).plugged
        assert await at.get_action(one, pci(one)) is None
        with pytest.raises(AlreadyExists):
            await at.plug(two, pci(two))
        with pytest.raises(AlreadyExists):
            await at.plug(one, pci(one))
        await stage.xs.write(f"{back}/online", "0")
        assert await at.get_action(one, pci(one)) is DeviceAction.UNPLUG
        for _ in range(2):
            await at.unplug(one, pci(one))
            assert not (await at.state(one, pci(one))).plugged
        assert calls.made[4:] == [
            ("deassign", 0x301),
            ("no memory", 0xFB800, 32),
            ("no ports", 0xE000, 32),
            ("no irq", 116),
            ("unmapped", 116),
        ]
        assert (bus / f"devices/{NIC}/reset").read_text() == "1"
        assert await stage.xs.read(f"/local/domain/0/backend/pci/{domid}") is None
        (bus / f"devices/{NIC}/driver").unlink()
        (bus / f"devices/{NIC}/driver").symlink_to(bus / "drivers/pciback")
        await at.plug(two, pci(two))
        await at.dequarantine(NIC)  # a guest has it
        assert not (bus / "drivers/pciback/unbind").exists()
        await at.sweep(stage.domains.require(two.id))
        await at.dequarantine(NIC)
        assert (bus / "drivers/pciback/unbind").read_text() == "0000:03:00.1"
        assert await stage.xs.ls("/xenopsd/pci") == []

    play(story)


def test_two_functions_of_a_guest_share_a_back_end(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, (at, _) = await stage.guest("both"), room(stage)
        other = PciAddress(bus=4, dev=0, fn=0)
        hardware(stage)
        hardware(stage, other)
        await at.plug(vm, pci(vm))
        await at.plug(vm, pci(vm, 1, other))
        back = f"/local/domain/0/backend/pci/{stage.domains.require(vm.id)}/0"
        assert await stage.xs.read_many([f"{back}/num_devs", f"{back}/dev-1"]) == ["2", "0000:04:00.0"]
        await at.unplug(vm, pci(vm))
        assert await stage.xs.read_many([f"{back}/dev-0", f"{back}/dev-1"]) == [None, "0000:04:00.0"]
        await at.sweep(stage.domains.require(vm.id))
        assert await stage.xs.read(back) is None
        await stage.xs.rm("/xenopsd/pci")

    play(story)


def test_what_cannot_be_is_refused_and_leaves_nothing(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, (at, calls) = await stage.guest("none"), room(stage)
        with pytest.raises(PcibackNotLoaded):
            await at.plug(vm, pci(vm))
        hardware(stage)
        with pytest.raises(DoesNotExist):
            await at.plug(vm, pci(vm, 0, PciAddress(bus=9, dev=0, fn=0)))
        calls.refuses = "ENODEV"
        with pytest.raises(HypercallFailed):
            await at.plug(vm, pci(vm))
        assert not (await at.state(vm, pci(vm))).plugged
        calls.refuses = ""
        await at.plug(vm, pci(vm))
        await at.unplug(vm, pci(vm))
        await stage.xs.rm("/xenopsd/pci")

    play(story)


def test_without_an_iommu_it_takes_a_setting_and_a_pv_guest(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        pv, hvm, (at, calls) = await stage.guest("pv"), await stage.guest("hvm", hvm=True), room(stage)
        hardware(stage)
        calls.refuses = "EOPNOTSUPP"
        with pytest.raises(IoError, match="xen_pci_without_iommu"):
            await at.plug(pv, pci(pv))
        stage.options = XenOptions(pci_without_iommu=True)
        with pytest.raises(IoError, match="no IOMMU"):
            await at.plug(hvm, pci(hvm))
        with pytest.raises(Unimplemented):
            await at.plug(Vm(id=pv.id, ty=Pvh(boot=Direct(kernel="k"))), pci(pv))
        await at.plug(pv, pci(pv))
        assert ("irq", 116) in calls.made
        await at.unplug(pv, pci(pv))
        await stage.xs.rm("/xenopsd/pci")

    play(story)


def test_a_guest_with_a_driver_is_asked_to_let_go(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, (at, calls) = await stage.guest("user"), room(stage, let_go_s=30.0)
        hardware(stage)
        await at.plug(vm, pci(vm))
        back = f"/local/domain/0/backend/pci/{stage.domains.require(vm.id)}/0"
        await stage.xs.wait_for([f"{back}/state"], lambda values: list(values.values()) == ["4"], 30)
        unplugging = asyncio.create_task(at.unplug(vm, pci(vm)))
        asked = [f"{back}/state", f"{back}/state-0"]
        await stage.xs.wait_for(asked, lambda values: list(values.values()) == ["7", "5"], 10)
        assert not unplugging.done()
        assert ("deassign", 0x301) not in calls.made
        await stage.xs.write(f"{back}/state", "4")
        await unplugging
        assert await stage.xs.read(back) is None
        await stage.xs.rm("/xenopsd/pci")

    play(story)


def test_numbers() -> None:
    assert sbdf(PciAddress(domain=1, bus=2, dev=3, fn=4)) == 0x1021C
    assert list(regions(RESOURCE)) == [Region(False, 0xFB800000, 0xFB81FFFF), Region(True, 0xE000, 0xE01F)]


@given(st.text())
def test_no_resource_file_surprises(untrusted: str) -> None:
    assert all(region.first <= region.last for region in regions(untrusted))
