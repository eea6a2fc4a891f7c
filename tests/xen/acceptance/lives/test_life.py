# SPDX-License-Identifier: Apache-2.0
"""How guests end and come back, by xenops-cli on the real hypervisor; minutes long, so only with XEN_LIFE set."""

import asyncio
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import xl
from tests.xen.acceptance.beside_xl.dumps import sections
from tests.xen.acceptance.console import attached
from tests.xen.acceptance.desk import Desk, Story

Tell = Callable[[Story], None]
pytestmark = pytest.mark.skipif(not os.environ.get("XEN_LIFE"), reason="long: set XEN_LIFE")


@contextmanager
def block_device(file: str) -> Iterator[str]:
    """A block device of that file."""
    command = ["losetup", "-f", "--show", file]
    device = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", device], timeout=60, check=True)


async def run(desk: Desk, name: str, command: str) -> str:
    """A shell command in the guest."""
    with attached(await desk.domid(name)) as console:
        return await asyncio.to_thread(console.run, command)


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_memory_in_a_block_device_and_back_to_a_checkpoint(tell: Tell, kind: str) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", desk.linux("linux", kind, disk=[f"{desk.image('root.img')},raw,xvda,rw"]))
        await desk.up("linux")
        then = str(desk.folder / "then")
        await run(desk, "linux", "echo before > /tmp/when")
        await desk.say("checkpoint", "linux", "--file", then)
        await run(desk, "linux", "echo after > /tmp/when")
        with block_device(desk.image("memory", size=400 << 20)) as device:
            await desk.say("suspend", "linux", "--block-device", device)
            await desk.say("resume", "linux", "--block-device", device)
            assert await run(desk, "linux", "cat /tmp/when") == "after"
        await desk.say("shutdown", "linux")
        await desk.say("resume", "linux", "--file", then)
        assert (
            await run(
                desk,
                "linux",
                "cat /tmp/when; mount -t ext4 /dev/xvda /mnt 2>/dev/null; dd if=/dev/xvda of=/dev/null count=1 2>&1 | grep -c out",
            )
            == "before\n1"
        )
        await desk.refused("fast-resume", "linux")  # it is not asleep
        assert (await desk.state("linux"))["power_state"] == "Running"

    tell(story)


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_a_guest_ends_by_itself(tell: Tell, kind: str) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", desk.linux("linux", kind, on_reboot="restart", on_poweroff="destroy"))
        await desk.up("linux")
        first = await desk.domid("linux")
        with attached(first) as console:
            console.send(b"reboot -f\n")
            await desk.until_other("linux", first)
        await desk.up("linux")
        await desk.say("reboot", "linux", "--timeout", "60")
        await desk.up("linux")
        with attached(await desk.domid("linux")) as console:
            console.send(b"poweroff -f\n")
            await desk.until("linux", power_state="Halted")

    tell(story)


@pytest.mark.timeout(2400)
@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_a_crash_leaves_a_core(tell: Tell, kind: str) -> None:
    """As xl writes it. Of a PVH guest libxc asks for every page below 4 GiB: minutes of emulation, in xl's hands too."""

    async def story(desk: Desk) -> None:
        await desk.say("create", desk.linux("linux", kind, on_crash="coredump-destroy"))
        await desk.up("linux")
        theirs = desk.folder / "theirs.core"
        if kind == "pv":
            await asyncio.to_thread(xl.run, "dump-core", "linux", str(theirs))
        with attached(await desk.domid("linux")) as console:
            console.send(b"echo c > /proc/sysrq-trigger\n")
            await desk.until("linux", within_s=2000, power_state="Halted")
        [core] = Path(desk.stack.var).rglob("*.core")
        found = sections(core)
        if kind == "pv":
            assert found == sections(theirs)
            theirs.unlink()
        else:
            assert found.keys() >= {".note.Xen", ".xen_prstatus", ".xen_shared_info", ".xen_pfn", ".xen_pages"}
            assert found[".xen_pages"] >= guests.LINUX_PVH_MEMORY_MIB << 20
        core.unlink()

    tell(story)


def test_a_request_is_obeyed_or_ignored_or_answered_by_dying(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", desk.linux("deaf", "pv", guests.LINUX_DEAF))
        await desk.up("deaf")
        complaint = await desk.refused("shutdown", "deaf", "--timeout", "3")  # acknowledged, and not done
        assert "did not" in complaint
        assert (await desk.state("deaf"))["power_state"] == "Running"
        await desk.say("shutdown", "deaf", "--timeout", "3", "--force")
        await desk.say("create", desk.config("mute", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB, cap=20))
        await desk.refused("shutdown", "mute", "--timeout", "2")  # never acknowledged
        await desk.refused("suspend", "mute", "--file", str(desk.folder / "mute"))
        dying = asyncio.create_task(desk.try_to("shutdown", "mute", "--timeout", "60"))
        await asyncio.to_thread(xl.run, "destroy", "mute")
        assert (await dying).status == 0
        await desk.until("mute", power_state="Halted")

    tell(story)
