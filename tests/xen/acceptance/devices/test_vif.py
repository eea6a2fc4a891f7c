# SPDX-License-Identifier: Apache-2.0
"""Interfaces on the real netback: what is written, that packets pass or do not, how they go, that nothing is left."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import console, xl
from tests.xen.acceptance.devices.devices_host import Rooms, gone, is_up, story, tree
from xenops.errors import AlreadyExists, IoError, ProgramFailed, Unimplemented
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge
from xenops.types.vif import Disabled, Locked, Rate, Unlocked, Vif
from xenops.types.vm import Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devices import bridge, hotplug

MAC = "00:16:3e:00:00:01"
HOST = guests.BRIDGE_ADDRESS.partition("/")[0]


@pytest.fixture
def other_bridge() -> Iterator[str]:
    """A second bridge."""
    name = "xenbr7"
    subprocess.run(["ip", "link", "add", name, "type", "bridge"], check=True)
    yield name
    subprocess.run(["ip", "link", "del", name], check=True)


def nic(vm: Vm, position: int = 0, **settings: object) -> Vif:
    mac = f"{MAC[:-2]}{position + 1:02x}"
    return Vif(id=DeviceId(vm=vm.id, dev=str(position)), position=position, mac=mac, **settings)  # type: ignore[arg-type]


def reaches_us(guest: console.Console, *, yes: bool) -> None:
    """Whether a guest's packets come through."""
    guest.run(f"! ping -c 1 -W 2 {HOST} >/dev/null" if not yes else f"ping -c 3 -W 10 {HOST} | grep -q bytes.from")


def test_what_is_written_is_what_xl_writes(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        lines = [
            f"mac={MAC},bridge={guests.BRIDGE}",
            f"mac={MAC[:-2]}02,bridge={guests.BRIDGE},rate=1MB/s,mtu=1400,vifname=foo0",
        ]
        async with at.guest(vif=lines) as made:
            from_xl = {key: value for key, value in tree(at.domid(made)).items() if "/vif/" in key}
        xl.store("rm", "/local/domain/foo0")  # xl's script takes the interface's name for a domain's number
        async with at.guest() as vm:
            await at.vif.plug(vm, nic(vm))
            limited = nic(vm, 1, mtu=1400, vifname="foo0", rate=Rate(kbytes_per_s=1000))
            await at.vif.plug(vm, limited)
            assert (await at.vif.state(vm, limited)).device == "foo0"
            from_us = tree(at.domid(vm))
        for one in (from_xl, from_us):  # xl counts 1 MB/s as 1,000,000 bytes, we count kilobytes of 1024
            for key in [key for key in one if key.endswith("/rate/")]:
                one[key] = "a rate"
        assert from_us == from_xl

    story(tmp_path, told)


def test_packets_pass_when_they_may(tmp_path: Path, other_bridge: str) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                one = nic(vm, mtu=1400, rate=Rate(kbytes_per_s=1000))
                await at.vif.plug(vm, one)
                assert guest.run("cat /sys/class/net/eth0/address") == MAC
                assert Path(f"/sys/class/net/vif{at.domid(vm)}.0/mtu").read_text().strip() == "1400"
                guest.run("ifconfig eth0 172.30.0.2 netmask 255.255.255.0 up")
                reaches_us(guest, yes=True)
                await at.vif.set_carrier(vm, one, False)
                reaches_us(guest, yes=False)
                assert not (await at.vif.state(vm, one)).media_present
                await at.vif.set_carrier(vm, one, True)
                reaches_us(guest, yes=True)
                await at.vif.set_locking_mode(vm, one, Disabled())
                reaches_us(guest, yes=False)
                await at.vif.set_locking_mode(vm, one, Unlocked())
                with pytest.raises(Unimplemented):
                    await at.vif.set_locking_mode(vm, one, Locked(ipv4=["172.30.0.2"]))
                await at.vif.move(vm, one, Bridge(bridge=other_bridge))
                assert bridge.master(f"vif{at.domid(vm)}.0") == other_bridge
                reaches_us(guest, yes=False)
                await at.vif.move(vm, one, Bridge())
                reaches_us(guest, yes=True)
                await at.vif.unplug(vm, one, force=False)
                guest.run(gone("/sys/class/net/eth0"))
                assert not bridge.exists(f"vif{at.domid(vm)}.0")
                await at.vif.plug(vm, one)
                await at.vif.unplug(vm, one, force=True)
                assert not bridge.exists(f"vif{at.domid(vm)}.0")

    story(tmp_path, told)


def test_a_network_that_is_not_there(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest() as vm:
            with pytest.raises(IoError, match="ip link add nowhere type bridge"):
                await at.vif.plug(vm, nic(vm, backend=Bridge(bridge="nowhere")))
            with pytest.raises(IoError, match="no Linux bridge"):
                await at.vif.plug(vm, nic(vm, backend=Bridge(bridge="lo")))
            await at.vif.plug(vm, nic(vm))
            with pytest.raises(AlreadyExists):
                await at.vif.plug(vm, nic(vm))
            with pytest.raises(IoError):
                await at.vif.move(vm, nic(vm), Bridge(bridge="nowhere"))
            assert bridge.master(f"vif{at.domid(vm)}.0") == guests.BRIDGE

    story(tmp_path, told)


def test_many_at_once_go_with_a_destroyed_domain(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            domid = at.domid(vm)
            with console.attached(domid) as guest:
                is_up(guest)
            await asyncio.gather(*(at.vif.plug(vm, nic(vm, n)) for n in range(4)))
            await at.world.xc.destroy(domid)
            await at.vif.sweep(domid)
            assert not any(bridge.exists(f"vif{domid}.{n}") for n in range(4))

    story(tmp_path, told)


def test_scripts(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest() as vm:
            scripted = nic(vm, script="vif-bridge")
            await at.vif.plug(vm, scripted)
            assert bridge.master(f"vif{at.domid(vm)}.0") == guests.BRIDGE
            assert xl.store("read", f"/local/domain/0/backend/vif/{at.domid(vm)}/0/hotplug-status") == "connected"
            await at.vif.unplug(vm, scripted, force=False)
            with pytest.raises(ProgramFailed, match="Could not find bridge"):
                await at.vif.plug(vm, nic(vm, script="vif-bridge", backend=Bridge(bridge="nowhere")))
            hangs = tmp_path / "hangs"
            hangs.write_text('#!/bin/sh\n[ "$1" = offline ] || sleep 100\n')
            os.chmod(hangs, 0o755)
            at.vif._hotplug = hotplug.Hotplug(at.world.xs, at.world.run_program, run_s=3.0)  # type: ignore[arg-type]
            with pytest.raises(ProgramFailed, match="did not end within 3 s"):
                await at.vif.plug(vm, nic(vm, script=str(hangs)))
            assert not bridge.exists(f"vif{at.domid(vm)}.0")

    story(tmp_path, told)


def test_a_script_of_ones_own(tmp_path: Path, other_bridge: str) -> None:
    """What it is told, that what it says counts, and that it is told of each change."""
    told_it = tmp_path / "told"
    program = tmp_path / "own"
    program.write_text(
        f'#!/bin/sh\necho "$@; $vif $dev $INTERFACE; $XENBUS_TYPE $XENBUS_BASE_PATH; $(xenstore-read $XENBUS_PATH/bridge)" '
        f">> {told_it}\n"
        'case "$1" in online) xenstore-write $XENBUS_PATH/hotplug-status connected ;; esac\n'
    )
    program.chmod(0o755)

    async def told(at: Rooms) -> None:
        async with at.guest() as vm:
            device = f"vif{at.domid(vm)}.0"
            own = nic(vm, script=str(program))
            await at.vif.plug(vm, own)
            assert bridge.master(device) is None, "its work is nobody else's"
            await at.vif.move(vm, own, Bridge(bridge=other_bridge))
            await at.vif.unplug(vm, own, force=True)
            rest = f"{device} {device} {device}; vif backend"
            assert told_it.read_text().splitlines() == [
                f"online type_if=vif; {rest}; {guests.BRIDGE}",
                f"move type_if=vif; {rest}; {other_bridge}",
                f"offline type_if=vif; {rest}; {other_bridge}",
            ]

    story(tmp_path, told)


def test_what_others_take_away_is_noticed(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                one = nic(vm)
                await at.vif.plug(vm, one)
                assert MAC in xl.run("network-list", vm.id)
                await asyncio.to_thread(xl.run, "network-detach", vm.id, "0")
                assert await at.vif.get_action(vm, one) is DeviceAction.UNPLUG
                await at.vif.unplug(vm, one, force=False)
                assert await at.vif.get_action(vm, one) is None

    story(tmp_path, told)
