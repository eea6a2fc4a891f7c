# SPDX-License-Identifier: Apache-2.0
"""A domain that serves another one its own disk and its own bridge: both come, are used, go, and go when it is dead."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.xen.acceptance import console, xl
from tests.xen.acceptance.console import Console
from tests.xen.acceptance.devices import driver_domain
from tests.xen.acceptance.devices.devices_host import Rooms, gone, is_up, story
from xenops.errors import DoesNotExist, ProgramFailed
from xenops.types.disk import RemoteDisk
from xenops.types.ids import DeviceId
from xenops.types.network import Remote
from xenops.types.vbd import Vbd
from xenops.types.vif import Vif
from xenops.types.vm import Vm
from xenopsd.backends.xen.devices.xenbus import State

MAC = "00:16:3e:00:00:01"


@asynccontextmanager
async def driver_and_guest(at: Rooms, folder: Path) -> AsyncIterator[tuple[Vm, Console, Vm, Console]]:
    """Both up; the one serves."""
    special = {"ramdisk": str(driver_domain.initramfs(folder)), "memory": driver_domain.MEMORY_MIB}
    async with at.guest("linux", paused=False, **special) as driver, at.guest("linux", paused=False) as vm:
        with console.attached(at.domid(driver)) as serving, console.attached(at.domid(vm)) as guest:
            is_up(serving)
            driver_domain.begin(serving)
            is_up(guest)
            yield driver, serving, vm, guest


def disk(vm: Vm, driver: Vm, path: str = driver_domain.DISK, position: str = "xvda") -> Vbd:
    return Vbd(id=DeviceId(vm=vm.id, dev=position), position=position, backend=RemoteDisk(vm=driver.id, path=path))


def nic(vm: Vm, driver: Vm, bridge: str = driver_domain.BRIDGE) -> Vif:
    return Vif(id=DeviceId(vm=vm.id, dev="0"), mac=MAC, backend=Remote(vm=driver.id, bridge=bridge))


def left(at: Rooms, driver: Vm, vm: Vm) -> list[str]:
    """What xenstore still has of devices of the one with the other."""
    served, user = at.domid(driver), at.domid(vm)
    devices = re.compile(rf"/{served}(/error)?/backend/v\w+/{user}( |/)|/{user}/device/v\w+/\d")
    return [line for line in xl.store("ls", "-f").splitlines() if devices.search(line)]


def test_a_domain_serves_another_one_until_it_dies(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with driver_and_guest(at, tmp_path) as (driver, serving, vm, guest):
            await are_used_and_go(at, driver, serving, vm, guest)
            await are_refused(at, driver, vm)
            await outlive_their_driver(at, driver, vm, guest)

    story(tmp_path, told)


async def are_used_and_go(at: Rooms, driver: Vm, serving: Console, vm: Vm, guest: Console) -> None:
    drive, interface = disk(vm, driver), nic(vm, driver)
    await asyncio.gather(at.vbd.plug(vm, drive), at.vif.plug(vm, interface))
    assert (await at.vbd.state(vm, drive)).backend_present == drive.backend
    guest.run("echo kept elsewhere | dd of=/dev/xvda conv=sync bs=512 count=1 && sync")
    assert "kept elsewhere" in serving.run(f"head -c 14 {driver_domain.DISK}")
    guest.run("ifconfig eth0 10.99.0.2 netmask 255.255.255.0 up")
    guest.run(f"ping -c 3 -W 10 {driver_domain.ADDRESS} | grep -q bytes.from")
    assert MAC in guest.run("cat /sys/class/net/eth0/address")
    await asyncio.gather(at.vbd.unplug(vm, drive, force=False), at.vif.unplug(vm, interface, force=False))
    guest.run(gone("/dev/xvda"))
    guest.run(gone("/sys/class/net/eth0"))
    serving.run(gone(f"/sys/class/net/vif{at.domid(vm)}.0"))
    assert left(at, driver, vm) == []


async def are_refused(at: Rooms, driver: Vm, vm: Vm) -> None:
    with pytest.raises(ProgramFailed, match="/dev/nothing is no block device"):
        await at.vbd.plug(vm, disk(vm, driver, "/dev/nothing"))
    with pytest.raises(ProgramFailed, match="no such bridge"):
        await at.vif.plug(vm, nic(vm, driver, "nowhere"))
    assert left(at, driver, vm) == []


async def outlive_their_driver(at: Rooms, driver: Vm, vm: Vm, guest: Console) -> None:
    drive, interface = disk(vm, driver), nic(vm, driver)
    await asyncio.gather(at.vbd.plug(vm, drive), at.vif.plug(vm, interface))
    place = await at.vbd._connections.find(at.domid(vm), "xvda")
    assert place is not None
    assert await at.vbd._connections.states(place) == (State.CONNECTED, State.CONNECTED)
    await at.world.xc.destroy(at.domid(driver))
    await asyncio.gather(at.vbd.unplug(vm, drive, force=True), at.vif.unplug(vm, interface, force=True))
    guest.run(gone("/dev/xvda"))
    guest.run(gone("/sys/class/net/eth0"))
    assert left(at, driver, vm) == []
    assert not (await at.vbd.state(vm, drive)).plugged
    del at.world.domains.domids[driver.id]  # as our own machines are forgotten
    with pytest.raises(DoesNotExist):
        await at.vbd.plug(vm, drive)
    at.world.domains.domids[driver.id] = place.backend
