# SPDX-License-Identifier: Apache-2.0
"""What is in drives, and who may have it, on a real xenstored with kernel and guest played."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from tests.xenopsd.xen.devices.stage import Actors, Stage
from tests.xenopsd.xen.devices.test_vbd import TOP, disk, drives
from xenops.errors import BadRequest, IoError, MediaPresent
from xenops.types.disk import Local, Vdi
from xenops.types.ids import DeviceId
from xenops.types.record import UNSET
from xenops.types.vbd import Mode, Vbd, VbdType

Play = Callable[[Any], None]


def test_disks_that_cannot_be_had(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        one, two, room = await stage.guest("writer"), await stage.guest("other"), drives(stage)
        mine = disk(stage, one)
        await room.plug(one, mine)
        theirs = msgspec.structs.replace(disk(stage, two), backend=mine.backend)
        with pytest.raises(IoError, match="machine writer writes to it"):
            await room.plug(two, theirs)
        with pytest.raises(IoError, match="writes to it"):
            await room.plug(two, msgspec.structs.replace(theirs, mode=Mode.READ_ONLY))
        await room.plug(two, msgspec.structs.replace(theirs, extra_backend_keys={"mode": "w!"}))
        await room.unplug(two, theirs, force=True)
        await room.unplug(one, mine, force=True)
        await room.plug(two, theirs)
        missing = Local(path=str(stage.folder / "missing"))
        with pytest.raises(IoError, match="no such disk"):
            await room.plug(one, msgspec.structs.replace(mine, backend=missing))
        with pytest.raises(IoError, match="neither a block device nor a file"):
            await room.plug(one, msgspec.structs.replace(mine, backend=Local(path=str(stage.folder))))
        with pytest.raises(Exception, match="storage"):
            await room.plug(one, msgspec.structs.replace(mine, backend=Vdi(name="sr/vdi")))
        with pytest.raises(BadRequest):
            await room.plug(one, disk(stage, one, "xvdc", extra_backend_keys={"state": "4"}))
        assert await stage.tree(stage.domains.require(one.id)) == {}

    play(story)


def test_readers_share(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        one, two, room = await stage.guest("reader"), await stage.guest("reader2"), drives(stage)
        mine = disk(stage, one, mode=Mode.READ_ONLY)
        theirs = msgspec.structs.replace(disk(stage, two, mode=Mode.READ_ONLY), backend=mine.backend)
        await room.plug(one, mine)
        await room.plug(two, theirs)
        again = drives(stage)  # after a restart it is known from xenstore
        with pytest.raises(BadRequest):
            await again.plug(two, disk(stage, two, "x"))

    play(story)


def test_media_of_an_emulated_drive(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("hvm", hvm=True, paused=True), drives(stage)
        domid = stage.domains.require(vm.id)
        medium = disk(stage, vm, "medium").backend
        empty = Vbd(id=DeviceId(vm=vm.id, dev="cd"), position="hdd", ty=VbdType.CDROM, mode=Mode.READ_ONLY)
        await room.plug(vm, empty)
        state = await room.state(vm, empty)
        assert (state.plugged, state.backend_present) == (True, UNSET)
        assert isinstance(medium, Local)
        await room.insert(vm, empty, medium)
        assert (await room.state(vm, empty)).backend_present == medium
        with pytest.raises(MediaPresent):
            await room.insert(vm, empty, medium)
        for _ in range(2):
            await room.eject(vm, empty)
            assert (await room.state(vm, empty)).backend_present is UNSET
        await room.insert(vm, empty, medium)
        await room.ejected(domid, 5696)  # by the guest
        assert (await room.state(vm, empty)).backend_present is UNSET
        back = f"{TOP}/qdisk/{domid}/5696"
        await stage.xs.write(f"{back}/params", "qcow2:/other")  # by xl
        assert (await room.state(vm, empty)).backend_present == Local(path="/other", format="qcow2")
        assert ("medium", domid, 5696, medium.path) in stage.device_models.asked
        await room.unplug(vm, empty, force=True)
        assert await stage.tree(domid) == {}

    play(story)


def test_an_empty_drive_of_a_guest_without_device_model_is_no_device(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("pv"), drives(stage)
        drive = Vbd(id=DeviceId(vm=vm.id, dev="cd"), position="xvdd", ty=VbdType.CDROM, mode=Mode.READ_ONLY)
        await room.plug(vm, drive)
        assert not (await room.state(vm, drive)).plugged
        await room.insert(vm, drive, Local(path=str(disk(stage, vm).backend.path)))  # type: ignore[union-attr]
        assert (await room.state(vm, drive)).plugged
        for _ in range(2):
            await room.eject(vm, drive)
            assert (await room.state(vm, drive)).backend_present is UNSET

    play(story)
