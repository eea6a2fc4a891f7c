# SPDX-License-Identifier: Apache-2.0
"""What goes wrong on a real host, through the whole stack: a fault by its name, the domain gone or as it was.

That the host is as before is looked at behind every test (`conftest`). XEN_FAULTS=all: those too that take long.
"""

import asyncio
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import console, xl
from tests.xen.acceptance.faults import stacked
from tests.xen.acceptance.faults.misfortunes import (
    begun,
    called,
    children,
    connecting,
    gone,
    has_unread,
    refused,
    registered,
    same,
    script,
    small_disk,
    stopped,
    stuttering,
)
from tests.xen.acceptance.faults.stacked import VM, Stage, XenLab, drive, machine
from xenops.errors import (
    FailedToAcknowledgeShutdownRequest,
    FailedToShutdown,
    HypercallFailed,
    IoError,
    NotEnoughMemory,
    ProgramFailed,
    TimedOut,
)
from xenops.types.disk import Local
from xenops.types.vm import Direct, PowerState, Pv
from xenopsd.store.machine import Machine

HALTED, RUNNING, PAUSED = PowerState.HALTED, PowerState.RUNNING, PowerState.PAUSED
LONG = pytest.mark.skipif(os.environ.get("XEN_FAULTS") != "all", reason="XEN_FAULTS=all runs it")
HOTPLUG_S = 3
OTHER = "5d6c4b00-0000-4000-8000-00000000d2ed"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stack for all faults."""
    yield from stacked.stage(tmp_path_factory.mktemp("faults"), further=(f"--xen-hotplug-timeout={HOTPLUG_S}",))


KERNELS = {
    "missing": ("/nowhere/vmlinuz", "/nowhere/vmlinuz"),
    "a-folder": ("/etc", "/etc"),
    "not-a-kernel": ("/etc/passwd", "/etc/passwd"),
    "empty": ("/dev/null", "/dev/null"),
}
SELDOM = ("a-folder", "empty")


@pytest.mark.parametrize("name", [pytest.param(name, marks=LONG if name in SELDOM else ()) for name in KERNELS])
def test_a_kernel_that_is_none(name: str, at: Stage, tmp_path: Path) -> None:
    path, said = KERNELS[name]

    async def story(lab: XenLab) -> None:
        its = machine("pv", ty=Pv(boot=Direct(kernel=path)))
        async with registered(lab, its):
            await refused(lab, IoError, its, said)

    at.tell(story(at.lab), tmp_path)


@LONG
def test_a_kernel_that_is_cut_short(at: Stage, tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.write_bytes(guests.GRUB_PV.read_bytes()[:100_000])

    async def story(lab: XenLab) -> None:
        its = machine("pv", ty=Pv(boot=Direct(kernel=str(path))))
        async with registered(lab, its):
            await refused(lab, IoError, its, str(path))

    at.tell(story(at.lab), tmp_path)


@pytest.mark.parametrize(
    "path", ["/nowhere/disk.img", pytest.param("/etc", marks=LONG), pytest.param("/dev/null", marks=LONG)]
)
def test_a_disk_that_is_none(path: str, at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv", drive("good", "xvda", lab.image("good.img")), drive("bad", "xvdb", path))
        async with registered(lab, its):
            await refused(lab, IoError, its, path)

    at.tell(story(at.lab), tmp_path)


def test_out_of_memory_is_told_with_numbers_before_anything_is_built(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv", memory_mib=1 << 16)
        async with registered(lab, its):
            free = (await lab.xenops.HOST.stat()).memory_free
            fault = await refused(lab, NotEnoughMemory, its)
            assert isinstance(fault, NotEnoughMemory)
            assert fault.needed > 1 << 36
            assert abs(fault.free - free) < 8 << 20
            assert (await lab.xenops.HOST.stat()).memory_free == free

    at.tell(story(at.lab), tmp_path)


@LONG
def test_two_that_do_not_fit_together(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        free_mib = (await lab.xenops.HOST.stat()).memory_free >> 20
        both = [machine("pvh", id=id, memory_mib=free_mib * 2 // 3) for id in (VM, OTHER)]
        async with registered(lab, *both):
            tasks = [await lab.xenops.VM.start(each.id) for each in both]
            ends = await asyncio.gather(*(lab.xenops.finished(task) for task in tasks), return_exceptions=True)
            assert sorted(type(end).__name__ for end in ends) == ["NoneType", "NotEnoughMemory"], ends
            states = [(await lab.stat(each.id)).power_state for each in both]
            assert sorted(states, key=lambda state: state.value) == [HALTED, PAUSED]

    at.tell(story(at.lab), tmp_path)


@LONG
def test_a_hotplug_script_that_fails(at: Stage, tmp_path: Path) -> None:
    words = script(tmp_path, 'echo "the lun is on fire" >&2; exit 3')

    async def story(lab: XenLab) -> None:
        bad = drive("bad", "xvdb", lab.image("bad.img"), extra_backend_keys={"script": words})
        its = machine("pv", drive("good", "xvda", lab.image("good.img")), bad)
        async with registered(lab, its):
            await refused(lab, ProgramFailed, its, words, "ended with code 3", "the lun is on fire")

    at.tell(story(at.lab), tmp_path)


def test_a_hotplug_script_that_hangs(at: Stage, tmp_path: Path) -> None:
    words = script(tmp_path, f'test "$1" = add || exit 0; sleep 1000 & echo $! >{tmp_path}/pid; wait')

    async def story(lab: XenLab) -> None:
        bad = drive("bad", "xvdb", lab.image("bad.img"), extra_backend_keys={"script": words})
        its = machine("pv", drive("good", "xvda", lab.image("good.img")), bad)
        async with registered(lab, its):
            await refused(lab, ProgramFailed, its, words, f"did not end within {HOTPLUG_S} s and was killed")
            assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()

    at.tell(story(at.lab), tmp_path)


def test_a_builder_that_dies_at_its_work(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv")
        async with registered(lab, its):
            [builder] = children(lab.stack.xenopsd.pid, "xenopsd.backends.xen.builder")
            os.kill(builder, signal.SIGSTOP)  # so that it is in the middle of it for sure
            before = await lab.look()
            task = await lab.xenops.VM.start(VM)
            await begun(lab, task, "vm.Build")
            await asyncio.to_thread(has_unread, builder)
            os.kill(builder, signal.SIGKILL)
            with pytest.raises(HypercallFailed, match="builder build failed with SIGKILL"):
                await lab.xenops.finished(task)
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))
            assert (await lab.stat()).power_state is PAUSED

    at.tell(story(at.lab), tmp_path)


@LONG
def test_without_forkexecd_there_is_no_device_model_and_none_comes_later(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("hvm", drive("disk", "hda", str(guests.HVM_DISK)))
        async with registered(lab, its):
            before = await lab.look()
            part = await lab.stack.kill("forkexecd")
            try:
                with pytest.raises(TimedOut, match="no reply from forkexec"):  # it is waited for: it may be starting
                    await lab.done(lab.xenops.VM.start(VM))
                assert (await lab.stat()).power_state is HALTED
            finally:
                await lab.stack.start_again(part)
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))  # forkexecd has dealt with what was asked before

    at.tell(story(at.lab), tmp_path)


def test_a_device_model_that_dies_takes_its_guest_along(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("hvm", drive("disk", "hda", str(guests.HVM_DISK)))
        async with registered(lab, its):
            before = await lab.look()
            await lab.done(lab.xenops.VM.start(VM, paused=False))
            [domid] = (await lab.stat()).domids
            [qemu] = called(f"-xen-domid {domid}")
            os.kill(qemu, signal.SIGKILL)
            await lab.until(HALTED)
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))

    at.tell(story(at.lab), tmp_path)


def test_a_guest_that_never_answers_is_left_as_it_was(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            await lab.done(lab.xenops.VM.start(VM, paused=False))
            await lab.up(its, answers=False)
            whole, state = await lab.look(), await lab.stat()
            with pytest.raises(FailedToAcknowledgeShutdownRequest) as caught:
                await lab.done(lab.xenops.VM.shutdown(VM, 1.0))
            assert caught.value == FailedToAcknowledgeShutdownRequest(VM, 1.0)
            await same(lab, state, whole)

    at.tell(story(at.lab), tmp_path)


@LONG
def test_a_guest_that_answers_and_stays(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        deaf = Direct(
            kernel=str(guests.LINUX_ELF),
            ramdisk=str(guests.LINUX_INITRAMFS),
            cmdline=f"{guests.LINUX_CMDLINE} {guests.LINUX_DEAF}",
        )
        its = machine("linux", ty=Pv(boot=deaf))
        async with registered(lab, its):
            await lab.done(lab.xenops.VM.start(VM, paused=False))
            await lab.up(its, answers=True)
            whole, state = await lab.look(), await lab.stat()
            with pytest.raises(FailedToShutdown):
                await lab.done(lab.xenops.VM.shutdown(VM, 3.0))
            await same(lab, state, whole)

    at.tell(story(at.lab), tmp_path)


def test_what_xl_destroys_leaves_nothing_either(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv")
        bare = Machine(its.vm, 1)
        async with registered(lab, bare):
            before = await lab.look()
            await lab.done(lab.xenops.VM.start(VM))
            [domid] = (await lab.stat()).domids
            await asyncio.to_thread(xl.run, "destroy", str(domid))
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


@pytest.mark.parametrize("who", ["us", pytest.param("xl", marks=LONG)])
def test_destroyed_while_its_devices_connect(who: str, at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            before = await lab.look()
            await lab.done(lab.xenops.VM.start(VM, paused=False))
            [domid] = (await lab.stat()).domids
            await connecting(domid)
            if who == "us":
                await lab.done(lab.xenops.VM.shutdown(VM))
            else:
                began = time.monotonic()
                await asyncio.to_thread(xl.run, "destroy", str(domid))
                print(f"xl destroy took {time.monotonic() - began:.1f} s")
                await lab.until(HALTED)
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))  # its disk is free

    at.tell(story(at.lab), tmp_path)


@pytest.mark.parametrize("who", [pytest.param("us", marks=LONG), "xl"])
def test_destroyed_while_it_reboots(who: str, at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            before = await lab.look()
            await lab.done(lab.xenops.VM.start(VM, paused=False))
            [domid] = (await lab.stat()).domids
            with console.attached(domid) as guest:
                await asyncio.to_thread(guest.wait, guests.GRUB_PROMPT)
                guest.send(b"reboot\r")
            if who == "us":
                await gone(domid)
                await lab.done(lab.xenops.VM.shutdown(VM))
                assert (await lab.stat()).power_state is HALTED
            else:
                with suppress(AssertionError):  # the old one may be gone already: then it is the new one's turn
                    await asyncio.to_thread(xl.run, "destroy", str(domid))
                await lab.done(lab.xenops.VM.delay(VM, 0.0))
                await lab.done(lab.xenops.VM.shutdown(VM))
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))

    at.tell(story(at.lab), tmp_path)


def test_a_slow_xenstored_delays_and_no_more(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            before = await lab.look()
            task = await lab.xenops.VM.start(VM, paused=False)
            await stuttering(lab, task)
            await lab.xenops.finished(task)
            assert (await lab.stat()).power_state is RUNNING
            await lab.adopted(its, await lab.stat())
            task = await lab.xenops.VM.shutdown(VM)
            await stuttering(lab, task)
            await lab.xenops.finished(task)
            assert not await lab.changes(before)

    at.tell(story(at.lab), tmp_path)


@LONG
def test_a_xenstored_that_does_not_answer(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("pv", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            before = await lab.look()
            [xenstored] = called("oxenstored")
            with stopped(xenstored):
                task = await lab.xenops.VM.start(VM)
                await asyncio.sleep(40)  # longer than one answer is waited for
            with pytest.raises(IoError, match="xenstored did not answer"):
                await lab.xenops.finished(task)
            assert not await lab.changes(before)
            await lab.done(lab.xenops.VM.start(VM))

    at.tell(story(at.lab), tmp_path)


@LONG
def test_an_image_that_does_not_fit(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        its = machine("linux", drive("disk", "xvda", lab.image("good.img")))
        async with registered(lab, its):
            await lab.done(lab.xenops.VM.start(VM, paused=False))
            await lab.up(its, answers=True)
            state = await lab.stat()
            with small_disk(tmp_path / "small") as folder:
                with pytest.raises(IoError, match="ENOSPC"):
                    await lab.done(lab.xenops.VM.suspend(VM, Local(path=str(folder / "image"))))
                assert not list(folder.iterdir())
            now = await lab.stat()
            assert (now.domids, now.power_state) == (state.domids, RUNNING)
            with console.attached(now.domids[0]) as guest:
                await asyncio.to_thread(guest.run, "echo I am well")

    at.tell(story(at.lab), tmp_path)
