# SPDX-License-Identifier: Apache-2.0
"""Interfaces, on a real xenstored with kernel, guest and bridges played."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.xenopsd.xen.devices.stage import Actors, Stage, destroyed
from xenops.errors import (
    AlreadyExists,
    BadRequest,
    DeviceDetachRejected,
    DeviceNotConnected,
    DoesNotExist,
    IoError,
    ProgramFailed,
    Unimplemented,
)
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge, Remote, Sriov
from xenops.types.pci_address import PciAddress
from xenops.types.process import Ended
from xenops.types.record import UNSET
from xenops.types.vif import Disabled, Locked, PvsProxy, Rate, Static4, Unlocked, Unspecified6, Vif
from xenops.types.vm import Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.vif import XenVif

Play = Callable[[Any], None]
TOP = "/local/domain/0/backend"


def nics(stage: Stage, **patience: float) -> XenVif:
    return XenVif(stage, **{"let_go_s": 20.0, "meet_s": 5.0} | patience)  # type: ignore[arg-type]


def nic(vm: Vm, position: int = 0, **settings: Any) -> Vif:
    mac = f"00:16:3e:00:00:{position:02x}"
    return Vif(id=DeviceId(vm=vm.id, dev=f"eth{position}"), position=position, mac=mac, **settings)


def test_an_interface_comes_is_set_and_goes(play: Play, ports: dict[str, object]) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), nics(stage)
        domid, vif = stage.domains.require(vm.id), nic(vm, mtu=1400, rate=Rate(kbytes_per_s=1000))
        await room.plug(vm, vif)
        port, back = f"vif{domid}.0", f"{TOP}/vif/{domid}/0"
        assert ports[port] == ("xenbr0", 1400, True)
        tree = await stage.tree(domid)
        assert (tree[f"{back}/hotplug-status"], tree[f"{back}/rate"], tree[f"{back}/mtu"]) == (
            "connected",
            "51200,50000",
            "1400",
        )
        assert await stage.xs.get_perms(f"/local/domain/{domid}/device/vif/0/mtu") == ("n0", f"r{domid}")
        state = await room.state(vm, vif)
        assert (state.plugged, state.media_present, state.device) == (True, True, port)
        await room.set_carrier(vm, vif, False)
        assert (ports[port], (await room.state(vm, vif)).media_present) == (("xenbr0", 1400, False), False)
        assert await stage.xs.read(f"/local/domain/{domid}/device/vif/0/disconnect") == "1"
        await room.move(vm, vif, Bridge(bridge="xenbr1"))
        assert ports[port] == ("xenbr1", 1400, False)  # the cable is still out
        await room.set_carrier(vm, vif, True)
        await room.set_locking_mode(vm, vif, Disabled())
        assert ports[port] == ("xenbr1", 1400, False)
        await room.set_locking_mode(vm, vif, Unlocked())
        assert ports[port] == ("xenbr1", 1400, True)
        with pytest.raises(IoError):
            await room.move(vm, vif, Bridge(bridge="nowhere"))
        assert await stage.xs.read(f"{back}/bridge") == "xenbr1"
        await room.set_ipv4_configuration(vm, vif, Static4(addresses=["10.0.0.2/24"], gateway="10.0.0.1"))
        await room.set_ipv6_configuration(vm, vif, Unspecified6())
        told = f"/local/domain/{domid}/xenserver/device/vif/0/static-ip-setting"
        assert await stage.xs.read_many([f"{told}/address", f"{told}/enabled6"]) == ["10.0.0.2/24", "0"]
        for _ in range(2):
            await room.unplug(vm, vif, force=False)
            assert not (await room.state(vm, vif)).plugged
        assert await stage.tree(domid) == {}
        with pytest.raises(DeviceNotConnected):
            await room.set_carrier(vm, vif, True)

    play(story)


def test_what_cannot_be_is_refused_and_leaves_nothing(play: Play, ports: dict[str, object]) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("picky"), nics(stage)
        await room.plug(vm, nic(vm))
        refusals: list[tuple[Vif, type[Exception]]] = [
            (nic(vm), AlreadyExists),
            (msgspec.structs.replace(nic(vm), position=7), AlreadyExists),
            (msgspec.structs.replace(nic(vm, 1), position=0), AlreadyExists),
            (nic(vm, 1, backend=Bridge(bridge="nowhere")), IoError),
            (nic(vm, 1, backend=Remote(vm="driver", bridge="b")), DoesNotExist),
            (nic(vm, 1, backend=Sriov(address=PciAddress(bus=1, dev=0, fn=0))), Unimplemented),
            (nic(vm, 1, locking_mode=Locked(ipv4=["10.0.0.1"])), Unimplemented),
            (nic(vm, 1, trunks=[5]), Unimplemented),
            (nic(vm, 1, vifname="../../etc/passwd"), BadRequest),
            (nic(vm, 1, rate=Rate(kbytes_per_s=0xFFFFFFFF)), BadRequest),
            (msgspec.structs.replace(nic(vm, 1), mac=""), BadRequest),
        ]
        for vif, expected in refusals:
            with pytest.raises(expected):
                await room.plug(vm, vif)
        with pytest.raises(Unimplemented):
            await room.set_pvs_proxy(vm, nic(vm), PvsProxy(site="s", servers=[], interface="i"))
        with pytest.raises(Unimplemented):
            await room.move(vm, nic(vm), Remote(vm="driver", bridge="b"))
        await room.set_pvs_proxy(vm, nic(vm), None)
        await room.set_trunks(vm, nic(vm), [])
        await room.unplug(vm, nic(vm), force=True)
        assert await stage.tree(stage.domains.require(vm.id)) == {}

    play(story)


def test_names_and_emulated_twins(play: Play, ports: dict[str, object]) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("hvm", hvm=True, paused=True), nics(stage)
        domid, vif = stage.domains.require(vm.id), nic(vm, vifname="web0", carrier=False)
        await room.plug(vm, vif)
        assert ports[f"vif{domid}.0 renamed"] == "web0"
        assert ports["web0"] == ("xenbr0", 1500, False)
        assert (await room.state(vm, vif)).device == "web0"
        assert await stage.xs.read(f"{TOP}/vif/{domid}/0/type") == "vif_ioemu"
        await room.connect_emulated(domid, 0, "web0-emu")
        assert ports["web0-emu"] == ("xenbr0", 1500, False)
        await room.unplug(vm, vif, force=True)

    play(story)


def test_a_guest_may_refuse_and_may_be_gone(play: Play, ports: dict[str, object]) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("stubborn"), nics(stage)
        domid, vif = stage.domains.require(vm.id), nic(vm)
        await asyncio.gather(*(room.plug(vm, nic(vm, n)) for n in range(4)))
        actors.refuses = "busy"
        before = await stage.tree(domid)
        with pytest.raises(DeviceDetachRejected, match="busy"):
            await room.unplug(vm, vif, force=False)
        after = await stage.tree(domid)
        assert {path: after[path] for path in before} == before
        assert await room.get_action(vm, vif) is None
        await stage.xs.write(f"{TOP}/vif/{domid}/0/online", "0")
        assert await room.get_action(vm, vif) is DeviceAction.UNPLUG
        await destroyed(stage, vm)
        await room.sweep(domid)
        assert await stage.tree(domid) == {}
        assert await room.get_action(vm, vif) is None

    play(story)


def test_scripts_do_the_work_where_one_is_named(play: Play, ports: dict[str, object]) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("scripted"), nics(stage)
        domid, vif = stage.domains.require(vm.id), nic(vm, script="vif-openvswitch")
        tasks: list[Any] = []

        def connects(program: Any) -> Ended:
            writing = stage.xs.write(f"{TOP}/vif/{domid}/0/hotplug-status", "connected")
            if program.argv[1] != "offline":
                tasks.append(asyncio.ensure_future(writing))
            else:
                writing.close()
            return Ended(code=0)

        stage.on_program = connects
        await room.plug(vm, vif)
        assert stage.programs[0].argv == ["/etc/xen/scripts/vif-openvswitch", "online", "type_if=vif"]
        environment = stage.programs[0].env
        assert (environment["vif"], environment["XENBUS_PATH"]) == (f"vif{domid}.0", f"backend/vif/{domid}/0")
        await room.move(vm, vif, Bridge(bridge="ovsbr3"))
        assert stage.programs[1].argv[1] == "move"
        await room.connect_emulated(domid, 0, "tap0")
        assert stage.programs[2].argv[1:] == ["add", "type_if=tap"]
        await room.unplug(vm, vif, force=False)
        assert stage.programs[3].argv[1] == "offline"
        await asyncio.gather(*tasks)
        await stage.xs.rm(f"{TOP}/vif/{domid}")
        stage.on_program = lambda _: Ended(timed_out=True, signal=9)
        with pytest.raises(ProgramFailed, match="was killed"):
            await room.plug(vm, vif)
        assert await stage.tree(domid) == {}
        assert ports == {}

    play(story)


def test_a_driver_domain_does_its_own_work(play: Play, ports: dict[str, object]) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        driver, vm, room = await stage.guest("driver"), await stage.guest("user"), nics(stage)
        served, domid = stage.domains.require(driver.id), stage.domains.require(vm.id)
        back = f"/local/domain/{served}/backend/vif/{domid}/0"
        plugging = asyncio.create_task(room.plug(vm, nic(vm, backend=Remote(vm="driver", bridge="inside"))))
        await stage.xs.wait_for([f"{back}/bridge"], lambda values: "inside" in values.values(), 10)
        assert await stage.xs.get_perms(f"{back}/mac") == (f"n{served}", f"r{domid}")
        assert await stage.xs.read(f"/local/domain/{domid}/device/vif/0/backend-id") == str(served)
        assert not plugging.done()
        await stage.xs.write(f"{back}/hotplug-status", "connected")
        stage.domains.paused.add(domid)
        await plugging
        assert ports == {}
        assert (await room.state(vm, nic(vm))).plugged
        with pytest.raises(Unimplemented):
            await room.set_carrier(vm, nic(vm), False)
        await stage.xs.write(f"{back}/state", "6")
        await room.unplug(vm, nic(vm), force=True)
        assert await stage.xs.read(back) is None
        assert (await room.state(vm, nic(vm))).device is UNSET

    play(story)
