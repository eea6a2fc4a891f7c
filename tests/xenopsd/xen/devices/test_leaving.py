# SPDX-License-Identifier: Apache-2.0
"""Drives of a guest that goes to another domain: at rest before it is there, its alone, or named."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.xenopsd.xen.devices.stage import Actors, Stage
from tests.xenopsd.xen.devices.test_vbd import disk, drives
from xenops.errors import IoError, StepTimedOut
from xenops.types.ids import DeviceId
from xenops.types.vbd import Vbd
from xenops.types.vm import Vm
from xenopsd.backends.port import twin_id
from xenopsd.backends.xen.xenstore.changes import Write

Play = Callable[[Any], None]
TOP = "/local/domain/0/backend"


def at_work(stage: Stage, counts: str, device: str = "7:9") -> None:
    """What the kernel says of the requests that a block device has not answered."""
    folder = stage.sysfs / "dev/block" / device
    folder.mkdir(parents=True, exist_ok=True)
    fresh = folder / "inflight.new"
    fresh.write_text(counts)
    fresh.replace(folder / "inflight")


def test_a_suspended_guests_last_requests_are_waited_for(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), drives(stage)
        domid = stage.domains.require(vm.id)
        await room.plug(vm, disk(stage, vm))
        at_work(stage, "       0        1\n")
        draining = asyncio.create_task(room.drain(domid))
        done, _ = await asyncio.wait((draining,), timeout=0.1)
        assert not done
        at_work(stage, "       0        0\n")
        await asyncio.wait_for(draining, 20)
        assert stage.device_models.asked == [], "no QEMU has a part in it"

    play(story)


def test_a_disk_that_does_not_come_to_rest_is_named(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xenopsd.backends.xen.vbd._AT_REST_S", 0.05)

    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), drives(stage)
        await room.plug(vm, disk(stage, vm))
        at_work(stage, "       3        0\n")
        with pytest.raises(StepTimedOut, match="7:9"):
            await room.drain(stage.domains.require(vm.id))

    play(story)


def test_a_suspended_guests_disk_goes_to_its_second_domain_and_to_no_other(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), drives(stage)
        twin, other = await stage.guest(twin_id(vm.id)), await stage.guest("two")
        vbd = disk(stage, vm)
        await room.plug(vm, vbd)
        with pytest.raises(IoError, match="writes to it"):
            await room.plug(twin, its(twin, vbd))
        stage.domains.asleep.add(stage.domains.require(vm.id))
        with pytest.raises(IoError, match="writes to it"):
            await room.plug(other, its(other, vbd))
        await room.plug(twin, its(twin, vbd))

    play(story)


def its(vm: Vm, vbd: Vbd) -> Vbd:
    """The same drive, of that machine."""
    return msgspec.structs.replace(vbd, id=DeviceId(vm=vm.id, dev=vbd.id.dev))


def test_what_cannot_go_to_another_domain_is_named(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), drives(stage)
        domid = stage.domains.require(vm.id)
        await room.plug(vm, disk(stage, vm))
        assert await room.bound(domid) == []
        note = f"/xenopsd/domain/{domid}/device/vbd"
        await stage.xs.commit([Write(f"{note}/51712/script", "/etc/xen/scripts/block-drbd")])
        await stage.xs.commit([Write(f"{note}/51728/id", "xvdb"), Write(f"{note}/51728/backend-id", "5")])
        await stage.xs.commit([Write(f"{TOP}/vbd/{domid}/51744/state", "4")])
        assert await room.bound(domid) == [
            "drive xvdb (driver domain 5 serves it)",
            "drive xvda (the script /etc/xen/scripts/block-drbd made it)",
            "drive xvdc (another tool plugged it)",
        ]
        await stage.xs.rm(f"{note}/51728")
        await stage.xs.rm(f"{TOP}/vbd/{domid}/51744")

    play(story)
