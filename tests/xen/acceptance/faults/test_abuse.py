# SPDX-License-Identifier: Apache-2.0
"""What others do to our guests and to the processes around them; XEN_FAULTS=all runs it.

That the host is as before is looked at behind every test (`conftest`).
"""

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from tests.xen import guests
from tests.xen.acceptance import console, xl
from tests.xen.acceptance.faults import stacked
from tests.xen.acceptance.faults.misfortunes import (
    called,
    children,
    has_grown,
    has_terminal,
    registered,
    script,
    small_disk,
    stopped,
)
from tests.xen.acceptance.faults.stacked import VM, Stage, XenLab, drive, machine
from xenops.errors import AlreadyExists, Cancelled, Fault, IoError, TimedOut
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge
from xenops.types.vbd import Vbd
from xenops.types.vif import Vif
from xenops.types.vm import Action, Direct, PowerState, Pv
from xenopsd.store.machine import Machine

HALTED, RUNNING, PAUSED = PowerState.HALTED, PowerState.RUNNING, PowerState.PAUSED
pytestmark = pytest.mark.skipif(os.environ.get("XEN_FAULTS") != "all", reason="XEN_FAULTS=all runs it")
BRIDGE = "xenbr-gone"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stack for all of it."""
    yield from stacked.stage(tmp_path_factory.mktemp("abuse"), further=("--xen-hotplug-timeout=5",))


async def _started(lab: XenLab, its: Machine) -> int:
    """It runs, and its guest is up."""
    await lab.done(lab.xenops.VM.start(its.id, paused=False))
    await lab.up(its, answers=True)
    [domid] = (await lab.stat(its.id)).domids
    return domid


async def _tell(domid: int, command: str) -> str:
    with console.attached(domid) as guest:
        return await asyncio.to_thread(guest.run, command)


def test_what_xl_pauses_is_paused_and_goes_on(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv")
        async with registered(lab, its):
            domid = await _started(lab, its)
            await asyncio.to_thread(xl.run, "pause", str(domid))
            assert (await lab.stat()).power_state is PAUSED
            await lab.done(lab.xenops.VM.unpause(VM))
            assert (await lab.stat()).power_state is RUNNING
            await lab.done(lab.xenops.VM.pause(VM))
            await asyncio.to_thread(xl.run, "unpause", str(domid))
            assert (await lab.stat()).power_state is RUNNING

    at.tell(story(at.lab), tmp_path)


def test_what_xl_asks_for_is_followed(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux")
        async with registered(lab, its):
            first = await _started(lab, its)
            await asyncio.to_thread(xl.run, "reboot", str(first))
            while (now := await lab.stat()).domids in ([], [first]) or now.power_state is not RUNNING:
                token = await lab.xenops.UPDATES.last_id()
                await lab.xenops.UPDATES.get(token, 5.0)
            await lab.up(its, answers=True)
            await asyncio.to_thread(xl.run, "shutdown", "-w", str(now.domids[0]))
            await lab.until(HALTED)

    at.tell(story(at.lab), tmp_path)


def test_a_qemu_that_serves_a_disk_dies(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        image = str(lab.folder / "more.qcow2")
        command = ["qemu-img", "create", "-q", "-f", "qcow2", image, "4M"]
        await asyncio.to_thread(subprocess.run, command, check=True, timeout=120)
        more = Vbd(id=DeviceId(vm=VM, dev="more"), position="xvdb", backend=Local(path=image, format="qcow2"))
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")), more)
        async with registered(lab, its):
            domid = await _started(lab, its)
            read = "dd if=/dev/xvdb of=/dev/null bs=4096 count=1"
            await _tell(domid, read)
            [qemu] = called(f"-xen-domid {domid}")
            os.kill(qemu, signal.SIGKILL)
            await _tell(domid, "dd if=/dev/xvda of=/dev/null bs=4096 count=1")
            assert (await lab.stat()).domids == [domid]
            await lab.done(lab.xenops.VBD.unplug(more.id, force=True))
            await lab.done(lab.xenops.VBD.plug(more.id))
            await _tell(domid, read)

    at.tell(story(at.lab), tmp_path)


def test_xenconsoled_dies_and_comes_back(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            domid = await _started(lab, its)
            [daemon] = called("xenconsoled")
            again = Path(f"/proc/{daemon}/cmdline").read_bytes().decode().split("\0")[:-1]
            os.kill(daemon, signal.SIGKILL)
            try:
                await lab.done(lab.xenops.VM.pause(VM))
                await lab.done(lab.xenops.VM.unpause(VM))
            finally:
                await asyncio.to_thread(subprocess.run, again, check=True, timeout=60)
            await has_terminal(domid)
            await lab.adopted(its, await lab.stat())
            assert domid == (await lab.stat()).domids[0]

    at.tell(story(at.lab), tmp_path)


def test_the_file_of_a_disk_is_removed(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        path = Path(lab.image("removed.img"))
        its = machine("linux", drive("disk", "xvda", str(path)))
        async with registered(lab, its):
            before = await lab.look()
            domid = await _started(lab, its)
            path.unlink()
            await _tell(domid, "dd if=/dev/xvda of=/dev/null bs=4096 count=1")
            await lab.done(lab.xenops.VM.shutdown(VM, 60.0))
            assert not await lab.changes(before)
            with pytest.raises(IoError, match="there is no such disk"):
                await lab.done(lab.xenops.VM.start(VM))
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


def test_a_bridge_is_removed(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        def ip(*words: str) -> None:
            subprocess.run(["ip", "link", *words], check=True, timeout=60)

        its = machine("linux")
        nic = Vif(id=DeviceId(vm=VM, dev="1"), position=1, mac="00:16:3e:00:d1:01", backend=Bridge(bridge=BRIDGE))
        async with registered(lab, its):
            domid = await _started(lab, its)
            whole = await lab.look()
            ip("add", BRIDGE, "type", "bridge")
            await lab.xenops.VIF.add(nic)
            await lab.done(lab.xenops.VIF.plug(nic.id))
            ip("del", BRIDGE)
            assert (await lab.stat()).domids == [domid]
            await lab.done(lab.xenops.VIF.unplug(nic.id))
            with pytest.raises(IoError, match="there is no such bridge"):
                await lab.done(lab.xenops.VIF.plug(nic.id))
            assert not await lab.changes(whole)

    at.tell(story(at.lab), tmp_path)


def test_a_core_that_does_not_fit(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        usual = machine("linux")
        vm = msgspec.structs.replace(usual.vm, on_crash=[Action.COREDUMP, Action.SHUTDOWN])
        its = Machine(vm, 1, usual.devices)
        async with registered(lab, its):
            before = await lab.look()
            with small_disk(lab.stack.var / "xenopsd" / "crash") as folder:
                domid = await _started(lab, its)
                with console.attached(domid) as guest:
                    guest.send(b"echo c > /proc/sysrq-trigger\n")
                    await lab.until(HALTED)
                assert not list(folder.iterdir())
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


def test_a_machine_of_that_id_was_made_by_xl(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv")
        path = xl.config(
            tmp_path, "theirs", type="pv", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB, uuid=VM, vcpus=1
        )
        with xl.domain(path, "-p") as domid:
            before = await lab.look()
            async with registered(lab, its):
                with pytest.raises(AlreadyExists):
                    await lab.done(lab.xenops.VM.start(VM))
                assert (await lab.stat()).power_state is HALTED
                await lab.done(lab.xenops.VM.shutdown(VM))
            assert not await lab.changes(before)
            assert "theirs" in xl.names()
            assert int(xl.run("domid", "theirs")) == domid

    at.tell(story(at.lab), tmp_path)


def test_a_tree_is_torn_out_of_xenstore(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            before = await lab.look()
            domid = await _started(lab, its)
            for path in (f"/local/domain/{domid}", f"/libxl/{domid}"):
                await asyncio.to_thread(xl.store, "rm", path)
            assert (await lab.stat()).domids == [domid]
            await lab.done(lab.xenops.VM.shutdown(VM))
            assert (await lab.stat()).power_state is HALTED
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))

    at.tell(story(at.lab), tmp_path)


def test_a_device_model_that_hangs(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("hvm", drive("disk", "hda", str(guests.HVM_DISK)))
        async with registered(lab, its):
            before = await lab.look()
            domid = await _started(lab, its)
            [qemu] = called(f"-xen-domid {domid}")
            with suppress(ProcessLookupError), stopped(qemu):  # nobody is left to be woken
                await lab.done(lab.xenops.VM.shutdown(VM))
                assert (await lab.stat()).power_state is HALTED
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


def test_a_suspend_is_torn_apart(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            before = await lab.look()
            domid = await _started(lab, its)
            image = tmp_path / "image"
            [builder] = children(lab.stack.xenopsd.pid, "xenopsd.backends.xen.builder")
            task = await lab.xenops.VM.suspend(VM, Local(path=str(image)))
            await asyncio.to_thread(has_grown, image, 1 << 20)
            with stopped(builder), suppress(AssertionError):  # we may be quicker than xl, which complains then
                await asyncio.to_thread(xl.run, "destroy", str(domid))
            with pytest.raises(Fault):
                await lab.xenops.finished(task)
            await lab.until(HALTED)
            assert not image.exists()
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


def test_a_suspend_is_cancelled(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            domid = await _started(lab, its)
            whole = await lab.look()
            image = tmp_path / "image"
            [builder] = children(lab.stack.xenopsd.pid, "xenopsd.backends.xen.builder")
            task = await lab.xenops.VM.suspend(VM, Local(path=str(image)))
            await asyncio.to_thread(has_grown, image)
            with stopped(builder):  # else it might be done before it is cancelled
                await lab.xenops.Task.cancel(task)
                with pytest.raises(Cancelled):
                    await lab.xenops.finished(task)
            assert (await lab.stat()).domids == [domid]
            assert not image.exists()
            await lab.adopted(its, await lab.stat())
            assert not await lab.changes(whole)

    at.tell(story(at.lab), tmp_path)


def test_forkexecd_dies_under_a_script(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        words = script(tmp_path, f'test "$1" = add || exit 0; echo $$ >{tmp_path}/pid; exec sleep 1000')
        bad = drive("bad", "xvdb", lab.image("bad.img"), extra_backend_keys={"script": words})
        its = machine("pv", bad)
        async with registered(lab, its):
            before = await lab.look()
            task = await lab.xenops.VM.start(VM)
            await asyncio.to_thread(has_grown, tmp_path / "pid")
            part = await lab.stack.kill("forkexecd")
            await lab.stack.start_again(part)
            with pytest.raises(TimedOut, match="no reply from forkexec"):
                await lab.xenops.finished(task)
            assert (await lab.stat()).power_state is HALTED
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


def test_its_kernel_is_removed_before_it_reboots(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        kernel = tmp_path / "grub"
        kernel.write_bytes(guests.GRUB_PV.read_bytes())
        its = machine("pv", drive("disk", "xvda", lab.image("good.img")), ty=Pv(boot=Direct(kernel=str(kernel))))
        async with registered(lab, its):
            before = await lab.look()
            for by_itself in (True, False):
                kernel.write_bytes(guests.GRUB_PV.read_bytes())
                await lab.done(lab.xenops.VM.start(VM, paused=False))
                [domid] = (await lab.stat()).domids
                with console.attached(domid) as guest:
                    await asyncio.to_thread(guest.wait, guests.GRUB_PROMPT)
                    kernel.unlink()
                    if by_itself:
                        guest.send(b"reboot\r")
                        await lab.until(HALTED)
                    else:
                        with pytest.raises(IoError, match=str(kernel)):
                            await lab.done(lab.xenops.VM.reboot(VM))
                assert (await lab.stat()).power_state is HALTED
                assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)
