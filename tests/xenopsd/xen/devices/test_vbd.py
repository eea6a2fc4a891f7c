# SPDX-License-Identifier: Apache-2.0
"""Drives, on a real xenstored with kernel and guest played."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.xen.devices.stage import Actors, Stage, destroyed
from xenops.errors import (
    AlreadyExists,
    BadRequest,
    DeviceDetachRejected,
    DoesNotExist,
    IoError,
    ProgramFailed,
    Unimplemented,
)
from xenops.events import Kind
from xenops.types.disk import Local, RemoteDisk
from xenops.types.ids import DeviceId
from xenops.types.process import Ended
from xenops.types.record import UNSET
from xenops.types.vbd import IoniceClass, Qos, Vbd, VbdType
from xenops.types.vm import Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devices import loop
from xenopsd.backends.xen.devices.connection import Connections
from xenopsd.backends.xen.vbd import XenVbd
from xenopsd.backends.xen.xenstore.changes import Write

Play = Callable[[Any], None]
TOP = "/local/domain/0/backend"


def drives(stage: Stage, **patience: float) -> XenVbd:
    return XenVbd(stage, sysfs=stage.sysfs, **{"let_go_s": 20.0, "meet_s": 5.0} | patience)  # type: ignore[arg-type]


def disk(stage: Stage, vm: Vm, position: str = "xvda", **settings: Any) -> Vbd:
    path = stage.folder / f"{vm.id}-{position}"
    path.write_bytes(bytes(512))
    return Vbd(id=DeviceId(vm=vm.id, dev=position), position=position, backend=Local(path=str(path)), **settings)


def test_a_drive_comes_and_goes_and_nothing_is_left(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), drives(stage)
        domid, vbd = stage.domains.require(vm.id), disk(stage, vm)
        await room.plug(vm, vbd)
        tree = await stage.tree(domid)
        back, front = f"{TOP}/vbd/{domid}/51712", f"/local/domain/{domid}/device/vbd/51712"
        assert (tree[f"{back}/physical-device"], tree[f"{back}/mode"], tree[f"{back}/state"]) == ("7:9", "w", "4")
        assert (tree[f"{front}/virtual-device"], tree[f"{front}/state"]) == ("51712", "4")
        assert await stage.xs.get_perms(f"{front}/backend") == (f"n{domid}", "r0")
        assert await stage.xs.get_perms(f"{back}/params") == ("n0", f"r{domid}")
        assert await stage.xs.get_perms(f"/xenopsd/domain/{domid}/device/vbd/51712/id") == ("n0",)
        state = await room.state(vm, vbd)
        assert (state.plugged, state.backend_present) == (True, vbd.backend)
        assert await room.get_action(vm, vbd) is None
        for _ in range(2):
            await room.unplug(vm, vbd, force=False)
            assert not (await room.state(vm, vbd)).plugged
        assert await stage.tree(domid) == {}

    play(story)


def test_a_place_is_taken_once(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("two"), drives(stage)
        first = disk(stage, vm)
        await room.plug(vm, first)
        other = msgspec.structs.replace(first, id=DeviceId(vm=vm.id, dev="other"))
        moved = msgspec.structs.replace(first, position="xvdb")
        for again in (first, other, moved):
            with pytest.raises(AlreadyExists):
                await room.plug(vm, again)
        assert (await room.state(vm, first)).plugged
        with pytest.raises(BadRequest):
            await room.plug(vm, disk(stage, vm, "nonsense"))
        await room.unplug(vm, first, force=True)

    play(story)


def test_many_at_once_and_those_without_a_place(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("many", paused=True), drives(stage)
        domid = stage.domains.require(vm.id)
        placed = [disk(stage, vm, f"xvd{letter}") for letter in "abcdef"]
        nowhere = [msgspec.structs.replace(disk(stage, vm, f"free{n}"), position=UNSET) for n in range(4)]
        await asyncio.gather(*(room.plug(vm, each) for each in [*placed, *nowhere]))
        places = await Connections(stage.xs, "vbd").noted(domid)
        assert set(places) == {each.id.dev for each in [*placed, *nowhere]}
        assert len({place.devid for place in places.values()}) == 10
        await room.sweep(domid)
        await room.sweep(domid)
        assert await stage.tree(domid) == {}

    play(story)


def test_no_domain(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("gone"), drives(stage)
        vbd = disk(stage, vm)
        await room.plug(vm, vbd)
        domid = stage.domains.require(vm.id)
        await destroyed(stage, vm)
        with pytest.raises(DoesNotExist):
            await room.plug(vm, disk(stage, vm, "xvdb"))
        await room.unplug(vm, vbd, force=False)  # nobody is asked: nobody is there
        assert await stage.tree(domid) == {}
        await stage.xs.rm(f"/local/domain/{domid}")
        stage.domains.gone.clear()  # destroyed while we write
        with pytest.raises(DoesNotExist):
            await room.plug(vm, vbd)
        assert await stage.tree(domid) == {}
        assert await stage.xs.read(f"/local/domain/{domid}") is None
        await stage.xs.write(f"{TOP}/vbd/{domid}/51712/state", "2")  # what somebody else's crash left behind
        await room.sweep(domid)
        assert await stage.xs.read_many([f"/local/domain/{domid}", f"{TOP}/vbd/{domid}"]) == [None, None]

    play(story)


def test_a_guest_that_refuses_keeps_its_drive_until_it_is_forced(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("stubborn"), drives(stage)
        domid, vbd = stage.domains.require(vm.id), disk(stage, vm)
        await room.plug(vm, vbd)
        actors.refuses = "Device in use; refusing to close"
        before = await stage.tree(domid)
        for _ in range(2):
            with pytest.raises(DeviceDetachRejected, match="refusing to close"):
                await room.unplug(vm, vbd, force=False)
        after = await stage.tree(domid)
        assert {path: after[path] for path in before} == before
        await room.unplug(vm, vbd, force=True)
        assert await stage.tree(domid) == {}

    play(story)


def test_a_guest_that_does_not_answer_keeps_its_drive(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("deaf"), drives(stage, let_go_s=0.3)
        domid, vbd = stage.domains.require(vm.id), disk(stage, vm)
        await room.plug(vm, vbd)
        actors.deaf = True
        before = await stage.tree(domid)
        with pytest.raises(DeviceDetachRejected, match=r"0\.3 s"):
            await room.unplug(vm, vbd, force=False)
        assert await stage.tree(domid) == before
        unplugging = asyncio.create_task(drives(stage).unplug(vm, vbd, force=False))
        await stage.xs.wait_for([f"{TOP}/vbd/{domid}/51712/online"], lambda values: "0" in values.values(), 10)
        unplugging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await unplugging
        assert await stage.tree(domid) == before
        stage.domains.paused.add(domid)
        with pytest.raises(DeviceDetachRejected, match="paused"):
            await room.unplug(vm, vbd, force=False)
        await room.unplug(vm, vbd, force=True)
        assert await stage.tree(domid) == {}

    play(story)


def test_a_guest_without_a_driver_is_no_error(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        actors.has_driver = False
        vm, room = await stage.guest("grub"), drives(stage, meet_s=0.2)
        vbd = disk(stage, vm)
        await room.plug(vm, vbd)
        await room.unplug(vm, vbd, force=False)
        assert await stage.tree(stage.domains.require(vm.id)) == {}

    play(story)


def test_what_the_kernel_refuses_is_told_and_nothing_is_left(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("broken"), drives(stage)
        actors.broken = "6 creating vbd structure"
        with pytest.raises(IoError, match="creating vbd structure"):
            await room.plug(vm, disk(stage, vm))
        assert await stage.tree(stage.domains.require(vm.id)) == {}
        actors.broken = ""
        await room.plug(vm, disk(stage, vm))

    play(story)


def test_cancelled_while_it_waits_for_the_kernel_nothing_is_left(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("slow"), drives(stage)
        domid = stage.domains.require(vm.id)
        (stage.sysfs / "bus/xen-backend/devices").mkdir(parents=True)
        (stage.sysfs / f"bus/xen-backend/devices/vbd-{domid}-51712").symlink_to("/dev/null/nowhere")  # never accepted
        plugging = asyncio.create_task(room.plug(vm, disk(stage, vm)))
        await stage.xs.wait_for([f"{TOP}/vbd/{domid}/51712/state"], lambda values: None not in values.values(), 10)
        plugging.cancel()
        with pytest.raises(asyncio.CancelledError):
            await plugging
        assert await stage.tree(domid) == {}

    async def lenient(stage: Stage, actors: Actors) -> None:
        actors._back_end = quiet(actors)  # type: ignore[method-assign]
        await story(stage, actors)

    play(lenient)


def quiet(actors: Actors) -> Any:
    """A kernel that says that it is ready and never opens the disk."""
    loud = actors._back_end

    async def played(kind: str, domid: str, devid: str, back: Any, online: bool, front: Any) -> None:
        if back.name == "INITIALISING":
            await actors.stage.xs.write(f"{TOP}/{kind}/{domid}/{devid}/state", "2")
        else:
            await loud(kind, domid, devid, back, online, front)

    return played


def test_one_that_was_being_plugged_when_we_were_killed_is_taken_away(
    play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("one"), drives(stage)
        vbd = disk(stage, vm)
        await room.plug(vm, vbd)
        assert await drives(stage).get_action(vm, vbd) is None
        with monkeypatch.context() as gone:  # its loop device went with us
            gone.setattr(loop, "serves", lambda device, *, sysfs: False)
            assert await drives(stage).get_action(vm, vbd) is DeviceAction.UNPLUG
        await stage.xs.rm(f"{TOP}/vbd/{stage.domains.require(vm.id)}/51712/hotplug-status")  # its script did not end
        assert await drives(stage).get_action(vm, vbd) is DeviceAction.UNPLUG
        await room.unplug(vm, vbd, force=True)

    play(story)


def test_priority(play: Play) -> None:
    quick = Qos(ionice=IoniceClass.REAL_TIME, level=0)

    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("qos", paused=True), drives(stage)
        domid, vbd = stage.domains.require(vm.id), disk(stage, vm)
        wanted = msgspec.structs.replace(vbd, qos=quick)
        await room.plug(vm, vbd)
        assert await room.get_action(vm, wanted) is DeviceAction.SET_QOS
        await room.set_qos(vm, wanted, quick)
        assert stage.programs == []  # there is no thread yet
        assert await room.get_action(vm, wanted) is None
        await stage.xs.write(f"{TOP}/vbd/{domid}/51712/queue-0/kthread-pid", "4711")
        await stage.xs.write(f"/local/domain/{domid}/device/vbd/51712/state", "4")
        await stage.xs.wait_for([f"{TOP}/vbd/{domid}/51712/state"], lambda values: "4" in values.values(), 10)
        assert await room.get_action(vm, wanted) is DeviceAction.SET_QOS
        await room.set_qos(vm, wanted, quick)
        assert stage.programs[-1].argv == ["/usr/bin/ionice", "-c", "1", "-n", "0", "-p", "4711"]
        assert await room.get_action(vm, wanted) is None
        assert (await room.state(vm, wanted)).qos_target == quick
        stage.on_program = lambda _: Ended(code=1, stderr=b"Operation not permitted")
        with pytest.raises(ProgramFailed, match="not permitted"):
            await room.set_qos(vm, vbd, None)

    play(story)


def test_what_happens_by_itself_is_told(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("watched", paused=True), drives(stage)
        domid, vbd = stage.domains.require(vm.id), disk(stage, vm)
        following = asyncio.create_task(room.follow())
        await stage.xs.read("/")  # the watch is there before anything happens

        async def told_after(path: str, value: str | None) -> None:
            await asyncio.sleep(0.5)  # what came before has been told
            stage.changed_again.clear()
            await (stage.xs.rm(path) if value is None else stage.xs.write(path, value))
            async with asyncio.timeout(10):
                await stage.changed_again.wait()
            assert stage.changes[-1] == (Kind.VBD, f"{vm.id}.xvda")

        back = f"{TOP}/vbd/{domid}/51712"
        await room.plug(vm, vbd)
        await told_after(f"/local/domain/{domid}/device/vbd/51712/state", "4")
        await told_after(f"{back}/kthread-pid", "4711")
        await told_after(f"{back}/params", "/elsewhere")
        stage.domains.paused.clear()  # a paused guest lets go of nothing: another toolstack would be left to it
        await told_after(f"{back}/online", "0")
        assert await room.get_action(vm, vbd) is DeviceAction.UNPLUG
        await told_after(f"{TOP}/vbd/{domid}", None)
        assert await room.get_action(vm, vbd) is DeviceAction.UNPLUG
        await room.unplug(vm, vbd, force=False)
        count = len(stage.changes)
        await stage.xs.write(f"{TOP}/vbd/999999/51712/state", "4")  # not ours
        await asyncio.sleep(0.5)
        assert len(stage.changes) == count
        await stage.xs.rm(f"{TOP}/vbd/999999")
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    play(story)


def test_a_scripted_drive(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("scripted", paused=True), drives(stage)
        domid = stage.domains.require(vm.id)
        vbd = disk(stage, vm, extra_backend_keys={"script": "block-nbd"})
        back, waiting = f"{TOP}/vbd/{domid}/51712", []

        def connects(program: Any) -> Ended:
            waiting.append(asyncio.ensure_future(stage.xs.write(f"{back}/hotplug-status", "connected")))
            return Ended(code=0)

        stage.on_program = connects
        await room.plug(vm, vbd)
        await asyncio.gather(*waiting)
        assert stage.programs[0].argv == ["/etc/xen/scripts/block-nbd", "add"]
        assert stage.programs[0].env["XENBUS_PATH"] == f"backend/vbd/{domid}/51712"
        stage.on_program = lambda _: Ended(code=1)  # it goes whatever its script says
        await room.unplug(vm, vbd, force=False)
        assert stage.programs[1].argv == ["/etc/xen/scripts/block-nbd", "remove"]
        assert await stage.tree(domid) == {}
        stage.on_program = lambda _: Ended(code=3, stderr=b"no such export")
        with pytest.raises(ProgramFailed, match=r"code 3; its last words: no such export"):
            await room.plug(vm, vbd)
        assert await stage.tree(domid) == {}
        with pytest.raises(BadRequest):
            await room.plug(vm, disk(stage, vm, "xvdb", extra_backend_keys={"script": "../../bin/sh"}))

    play(story)


def test_what_xl_attached_to_our_domain_goes_with_it(play: Play, tmp_path: Path) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        vm, room = await stage.guest("mixed"), drives(stage)
        domid = stage.domains.require(vm.id)
        await room.plug(vm, disk(stage, vm))
        other = f"{TOP}/vbd/{domid}/51728"
        await stage.xs.write(f"{other}/frontend", f"/local/domain/{domid}/device/vbd/51728")
        await stage.xs.write(f"{other}/state", "2")
        await room.sweep(domid)
        assert await stage.tree(domid) == {}

    play(story)


def test_a_driver_domain_finds_its_disk_itself(play: Play) -> None:
    async def story(stage: Stage, actors: Actors) -> None:
        driver, vm, room = await stage.guest("driver"), await stage.guest("user", paused=True), drives(stage)
        served, domid = stage.domains.require(driver.id), stage.domains.require(vm.id)
        vbd = Vbd(id=DeviceId(vm=vm.id, dev="xvda"), position="xvda", backend=RemoteDisk(vm="driver", path="/dev/ram0"))
        back = f"/local/domain/{served}/backend/vbd/{domid}/51712"
        plugging = asyncio.create_task(room.plug(vm, vbd))
        await stage.xs.wait_for([f"{back}/params"], lambda values: "/dev/ram0" in values.values(), 10)
        assert await stage.xs.get_perms(f"{back}/params") == (f"n{served}", f"r{domid}")
        await stage.xs.write(f"{back}/state", "2")
        assert await stage.xs.read_many([f"{back}/type", f"{back}/physical-device"]) == ["phy", None]
        assert not plugging.done()
        await stage.xs.write(f"{back}/hotplug-status", "connected")
        await plugging
        assert (await room.state(vm, vbd)).backend_present == vbd.backend
        await stage.xs.write(f"{back}/state", "6")
        await room.unplug(vm, vbd, force=True)
        assert await stage.xs.read(f"/local/domain/{served}/backend/vbd/{domid}") is None
        plugging = asyncio.create_task(room.plug(vm, vbd))
        await stage.xs.wait_for([f"{back}/state"], lambda values: "1" in values.values(), 10)
        await stage.xs.commit([Write(f"{back}/state", "2"), Write(f"{back}/hotplug-error", "no such disk")])
        with pytest.raises(ProgramFailed, match=f"driver domain {served}.*no such disk"):
            await stage_ends(stage, back, plugging)
        assert await stage.tree(domid) == {}
        hvm = await stage.guest("hvm", hvm=True)
        with pytest.raises(Unimplemented):
            await room.plug(hvm, msgspec.structs.replace(vbd, id=DeviceId(vm=hvm.id, dev="cd"), ty=VbdType.CDROM))
        stage.domains.gone.add(served)
        with pytest.raises(DoesNotExist):
            await room.plug(vm, vbd)

    play(story)


async def stage_ends(stage: Stage, back: str, plugging: "asyncio.Task[None]") -> None:
    """The driver domain closes what is taken away again."""
    await stage.xs.wait_for([f"{back}/state"], lambda values: "5" in values.values(), 10)
    await stage.xs.write(f"{back}/state", "6")
    await plugging
