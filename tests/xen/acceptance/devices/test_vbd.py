# SPDX-License-Identifier: Apache-2.0
"""Drives on the real blkback: what is written, what the guest sees, how they go, and that nothing of them is left."""

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import console, world, xl
from tests.xen.acceptance.devices.devices_host import Rooms, gone, is_up, output, story, tree
from xenops.errors import AlreadyExists, DeviceDetachRejected, IoError, ProgramFailed
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.vbd import IoniceClass, Mode, Qos, Vbd, VbdType
from xenops.types.vm import Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devicemodel.qemu import DeviceModels
from xenopsd.backends.xen.devices import hotplug, priority

MIB = 1 << 20


def file(folder: Path, name: str = "disk.img", mib: int = 4) -> Path:
    path = folder / name
    with path.open("wb") as opened:
        opened.truncate(mib * MIB)
    return path


def disk(vm: Vm, path: Path, position: str = "xvda", **settings: object) -> Vbd:
    words = {"backend": Local(path=str(path))} | settings
    return Vbd(id=DeviceId(vm=vm.id, dev=position), position=position, **words)  # type: ignore[arg-type]


def loops() -> set[str]:
    return {file for _device, file in world.loops()}


async def let_go(path: Path) -> None:
    """Until there is no loop device over it: a back end whose folder has vanished lets go a moment later."""
    async with asyncio.timeout(30):
        while str(path) in loops():  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.01)


def test_what_is_written_is_what_xl_writes(tmp_path: Path) -> None:
    ours, theirs = file(tmp_path, "ours"), file(tmp_path, "their")
    mac = "00:16:3e:00:00:01"

    async def told(at: Rooms) -> None:
        lines = [f"format=raw,vdev=xvda,access=rw,target={theirs}", f"format=raw,vdev=xvdb,access=ro,target={theirs}2"]
        (tmp_path / "their2").write_bytes(bytes(MIB))
        (tmp_path / "ours2").write_bytes(bytes(MIB))
        async with at.guest(disk=lines, vif=[f"mac={mac},bridge={guests.BRIDGE}"]) as made, at.guest() as vm:
            await at.vbd.plug(vm, disk(vm, ours))
            await at.vbd.plug(vm, disk(vm, tmp_path / "ours2", "xvdb", mode=Mode.READ_ONLY))
            from_xl, from_us = tree(at.domid(made)), tree(at.domid(vm))
            disks = {key: value for key, value in from_xl.items() if "/vbd/" in key}
            for loop in ("node", "physical-device", "physical-device-path"):
                for one in (disks, from_us):
                    for key in [key for key in one if key.endswith(f"/{loop}/")]:
                        one[key] = "a loop device"
            assert {key: value.replace("/ours", "/their") for key, value in from_us.items()} == disks

    story(tmp_path, told)


def test_a_running_guest_gets_a_disk_uses_it_and_lets_it_go(tmp_path: Path) -> None:
    path = file(tmp_path)

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                began = time.monotonic()
                await at.vbd.plug(vm, disk(vm, path))
                print(f"hot-plug {time.monotonic() - began:.3f} s")
                guest.run("ls -l /dev/xvda")
                guest.run("echo seen by the guest | dd of=/dev/xvda conv=sync bs=512 count=1 && sync")
                await at.world.told((Kind.VBD, f"{vm.id}.xvda"))
                began = time.monotonic()
                await at.vbd.unplug(vm, disk(vm, path), force=False)
                print(f"unplug {time.monotonic() - began:.3f} s")
                assert path.read_bytes()[:17] == b"seen by the guest"
                guest.run(gone("/dev/xvda"))
                assert str(path) not in loops()

    story(tmp_path, told)


def test_what_a_paused_guest_has_in_use_stays_and_force_takes_it(tmp_path: Path) -> None:
    path = file(tmp_path)

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                await at.vbd.plug(vm, disk(vm, path))
                await at.world.xc.pause(at.domid(vm))
                with pytest.raises(DeviceDetachRejected):
                    await at.vbd.unplug(vm, disk(vm, path), force=False)
                await at.world.xc.unpause(at.domid(vm))
                guest.run("dd if=/dev/xvda of=/dev/null bs=4096 count=1")
                await at.vbd.unplug(vm, disk(vm, path), force=True)
                assert not (await at.vbd.state(vm, disk(vm, path))).plugged
                assert str(path) not in loops()

    story(tmp_path, told)


def test_a_guest_that_does_not_answer_keeps_a_disk_that_works(tmp_path: Path) -> None:
    path = file(tmp_path)

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            domid = at.domid(vm)
            with console.attached(domid) as guest:
                is_up(guest)
                await at.vbd.plug(vm, disk(vm, path))
                place = await at.vbd._connections.find(domid, "xvda")
                assert place is not None
                await at.world.xc.pause(domid)  # behind the back of the room that asks
                reason = await at.vbd._connections.close(place, within_s=0.5)
                assert "did not answer" in str(reason)
                await at.world.xc.unpause(domid)
                guest.run("dd if=/dev/xvda of=/dev/null bs=4096 count=1")
                assert await at.vbd.get_action(vm, disk(vm, path)) is None
                await at.vbd.unplug(vm, disk(vm, path), force=False)

    story(tmp_path, told)


def test_a_guest_without_a_driver_is_no_error(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest(paused=False) as vm:
            one = disk(vm, file(tmp_path))
            await at.vbd.plug(vm, one)
            at.vbd._let_go_s = 0.0  # nobody has it in use, so nobody is waited for
            await at.vbd.unplug(vm, one, force=False)

    story(tmp_path, told)


def test_a_destroyed_domain_with_a_connected_disk_is_no_zombie(tmp_path: Path) -> None:
    path = file(tmp_path)

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            domid = at.domid(vm)
            with console.attached(domid) as guest:
                is_up(guest)
                await at.vbd.plug(vm, disk(vm, path))
            await at.world.xc.destroy(domid)
            await at.vbd.sweep(domid)
            async with asyncio.timeout(60):
                while (await at.world.xc.get_info(domid)) is not None:  # noqa: ASYNC110 - no event tells of that
                    await asyncio.sleep(0.01)
            assert str(path) not in loops()
            await at.vbd.unplug(vm, disk(vm, path), force=True)  # nothing is left, and that is as well

    story(tmp_path, told)


def test_a_block_device(tmp_path: Path) -> None:
    path = file(tmp_path)

    node = Path(output("losetup", "-f", "--show", str(path)).strip())

    async def told(at: Rooms) -> None:
        async with at.guest() as vm:
            await at.vbd.plug(vm, disk(vm, node))
            assert str(path) in loops()
            same_bytes = disk(vm, path, "xvdb")
            async with at.guest() as other:
                with pytest.raises(IoError, match="writes to it"):
                    await at.vbd.plug(other, disk(other, path))
            await at.vbd.plug(vm, same_bytes)  # the guest's own affair
            await at.vbd.unplug(vm, same_bytes, force=True)
            await at.vbd.unplug(vm, disk(vm, node), force=True)

    try:
        story(tmp_path, told)
    finally:
        output("losetup", "-d", str(node))


def test_disks_that_cannot_be_had(tmp_path: Path) -> None:
    taken = file(tmp_path, "taken")

    async def told(at: Rooms) -> None:
        line = f"format=raw,vdev=xvda,access=rw,target={taken}"
        async with at.guest(disk=[line]), at.guest() as vm:
            with pytest.raises(IoError, match="no such disk"):
                await at.vbd.plug(vm, disk(vm, tmp_path / "missing"))
            with pytest.raises(IoError, match="neither"):
                await at.vbd.plug(vm, disk(vm, tmp_path))
            with pytest.raises(IoError, match="writes to it"):
                await at.vbd.plug(vm, disk(vm, taken))
            shared = disk(vm, taken, extra_backend_keys={"mode": "w!"})
            await at.vbd.plug(vm, shared)
            with pytest.raises(AlreadyExists):
                await at.vbd.plug(vm, shared)
            assert tree(at.domid(vm))["/local/domain/0/backend/vbd/N/51712/mode/"].startswith('"w"')

    story(tmp_path, told)


def test_many_at_once(tmp_path: Path) -> None:
    async def told(at: Rooms) -> None:
        async with at.guest() as vm:
            drives = [disk(vm, file(tmp_path, f"{n}", 1), f"xvd{'abcdefghijkl'[n]}") for n in range(12)]
            began = time.monotonic()
            await asyncio.gather(*(at.vbd.plug(vm, drive) for drive in drives))
            print(f"12 drives plugged in {time.monotonic() - began:.3f} s")
            assert len(loops()) >= 12
            began = time.monotonic()
            await asyncio.gather(*(at.vbd.unplug(vm, drive, force=True) for drive in drives))
            print(f"12 drives unplugged in {time.monotonic() - began:.3f} s")
            nowhere = [Vbd(id=d.id, backend=d.backend) for d in drives[:4]]
            await asyncio.gather(*(at.vbd.plug(vm, drive) for drive in nowhere))
            assert sorted(p.devid for p in (await at.vbd._connections.noted(at.domid(vm))).values()) == [
                51712,
                51728,
                51744,
                51760,
            ]
            began = time.monotonic()
            await at.vbd.sweep(at.domid(vm))
            print(f"4 drives swept in {time.monotonic() - began:.3f} s")

    story(tmp_path, told)


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.xen.acceptance.devices.devices_host import rooms
from tests.xen.acceptance.devices.test_vbd import disk
from xenops.types.vm import Direct, Pv, Vm
async def main(name, domid, path):
    async with rooms(Path("/tmp")) as at:
        at.world.domains.domids[name] = int(domid)
        vm = Vm(id=name, ty=Pv(boot=Direct(kernel="k")))
        print("begins", flush=True)
        while True:
            await at.vbd.plug(vm, disk(vm, path))
            await at.vbd.unplug(vm, disk(vm, path), force=True)
asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("after_ms", [0, 15, 40, 80, 150, 240, 330])
def test_killed_at_any_moment_nothing_is_left_once_swept(tmp_path: Path, after_ms: int) -> None:
    path = file(tmp_path)

    async def told(at: Rooms) -> None:
        async with at.guest() as vm:
            child = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", CHILD, vm.id, str(at.domid(vm)), str(path)),
                stdout=subprocess.PIPE,
                cwd=Path(__file__).parents[4],
                env={**os.environ, "PYTHONPATH": "."},
            )
            assert child.stdout is not None
            assert await child.stdout.readline() == b"begins\n"
            await asyncio.sleep(after_ms / 1000)
            child.kill()
            await child.wait()
            await at.vbd.sweep(at.domid(vm))
            await let_go(path)  # killed after the folders went, nobody is left who would wait
            await at.vbd.plug(vm, disk(vm, path))
            await at.vbd.unplug(vm, disk(vm, path), force=False)

    story(tmp_path, told)


def test_what_others_take_away_is_noticed(tmp_path: Path) -> None:
    path = file(tmp_path)

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                await at.vbd.plug(vm, disk(vm, path))
                at.world.changes.clear()
                assert "51712" in xl.run("block-list", vm.id)
                await asyncio.to_thread(xl.run, "block-detach", vm.id, "xvda")
                await at.world.told((Kind.VBD, f"{vm.id}.xvda"))
                assert await at.vbd.get_action(vm, disk(vm, path)) is DeviceAction.UNPLUG
                await at.vbd.unplug(vm, disk(vm, path), force=False)
                assert str(path) not in loops()

    story(tmp_path, told)


def test_priority(tmp_path: Path) -> None:
    path = file(tmp_path)
    idle = Qos(ionice=IoniceClass.IDLE, level=7)

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                one = disk(vm, path)
                await at.vbd.plug(vm, one)
                wanted = disk(vm, path, qos=idle)
                assert await at.vbd.get_action(vm, wanted) is DeviceAction.SET_QOS
                await at.vbd.set_qos(vm, wanted, idle)
                assert await at.vbd.get_action(vm, wanted) is None
                place = await at.vbd._connections.find(at.domid(vm), "xvda")
                assert place is not None
                pids = await priority.threads(at.world.xs, place)
                assert "idle" in await asyncio.to_thread(output, "ionice", "-p", *map(str, pids))
                await at.vbd.unplug(vm, one, force=False)

    story(tmp_path, told)


def test_scripts(tmp_path: Path) -> None:
    path = file(tmp_path)

    def script(body: str) -> str:
        program = tmp_path / "script"
        program.write_text(f"#!/bin/sh\n{body}\n")
        program.chmod(0o755)
        return str(program)

    async def told(at: Rooms) -> None:
        at.vbd._hotplug = hotplug.Hotplug(at.world.xs, at.world.run_program, run_s=20.0, status_s=2.0)  # type: ignore[arg-type]
        async with at.guest() as vm:
            refuses = script('echo no such LUN >&2; [ "$1" = remove ] || exit 3')
            with pytest.raises(ProgramFailed, match=r"code 3.*no such LUN"):
                await at.vbd.plug(vm, disk(vm, path, extra_backend_keys={"script": refuses}))
            complains = script('xenstore-write "$XENBUS_PATH/hotplug-error" "cable pulled"')
            with pytest.raises(ProgramFailed, match="cable pulled"):
                await at.vbd.plug(vm, disk(vm, path, extra_backend_keys={"script": complains}))
            at.vbd._hotplug = hotplug.Hotplug(at.world.xs, at.world.run_program, run_s=1.0, status_s=2.0)  # type: ignore[arg-type]
            hangs = script("sleep 100")
            with pytest.raises(ProgramFailed, match="did not end within 1 s"):
                await at.vbd.plug(vm, disk(vm, path, extra_backend_keys={"script": hangs}))
            assert not (await at.vbd.state(vm, disk(vm, path))).plugged
            assert str(path) not in loops()

    story(tmp_path, told)


def test_an_empty_drive_and_its_media(tmp_path: Path) -> None:
    medium = Local(path=str(file(tmp_path)))

    async def told(at: Rooms) -> None:
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                drive = Vbd(id=DeviceId(vm=vm.id, dev="cd"), position="xvdd", ty=VbdType.CDROM, mode=Mode.READ_ONLY)
                await at.vbd.plug(vm, drive)
                assert not (await at.vbd.state(vm, drive)).plugged
                await at.vbd.insert(vm, drive, medium)
                assert (await at.vbd.state(vm, drive)).backend_present == medium
                guest.run("dd if=/dev/xvdd of=/dev/null bs=4096 count=1")
                for _ in range(2):
                    await at.vbd.eject(vm, drive)
                    assert not (await at.vbd.state(vm, drive)).plugged

    story(tmp_path, told)


def test_an_image_that_a_qemu_reads(tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    output("qemu-img", "create", "-q", "-f", "qcow2", str(path), "8M")

    async def told(at: Rooms) -> None:
        models = DeviceModels(at.world)  # type: ignore[arg-type]
        at.world.device_models = models  # type: ignore[assignment]
        async with at.guest("linux", paused=False) as vm:
            with console.attached(at.domid(vm)) as guest:
                is_up(guest)
                one = disk(vm, path, backend=Local(path=str(path), format="qcow2"))
                try:
                    began = time.monotonic()
                    await at.vbd.plug(vm, one)
                    print(f"qcow2, first of its guest: {time.monotonic() - began:.3f} s")
                    guest.run("echo seen by the guest | dd of=/dev/xvda conv=sync bs=512 count=1 && sync")
                    for force in (False, True):
                        began = time.monotonic()
                        await at.vbd.unplug(vm, one, force=force)
                        print(f"unplugged in {time.monotonic() - began:.3f} s")
                        guest.run(gone("/dev/xvda"))
                        await at.vbd.plug(vm, one)
                        guest.run("dd if=/dev/xvda of=/dev/null bs=4096 count=1")
                finally:
                    await models.stop(at.domid(vm))
                    await models.close()

    story(tmp_path, told)
