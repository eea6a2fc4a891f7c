# SPDX-License-Identifier: Apache-2.0
"""Machines that go to a new domain of the same host while they run, on the real hypervisor; all but one with XEN_LIFE set."""

import asyncio
import os
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

from tests.xen import guests
from tests.xen.acceptance import xl
from tests.xen.acceptance.console import attached
from tests.xen.acceptance.desk import Desk, Story

Tell = Callable[[Story], None]
long = pytest.mark.skipif(not os.environ.get("XEN_LIFE"), reason="long: set XEN_LIFE")

# Each number is on the disk before the next one is written: what was acknowledged may not be lost on the way.
WRITE = (
    "(n=0; while :; do n=$((n+1)); echo $n | dd of=/dev/xvda bs=512 conv=sync,fsync 2> /dev/null || echo failed > /tmp/end;"
    " echo $n > /tmp/n; done) & true"
)
FIRST = "dd if=/dev/xvda bs=512 count=1 2> /dev/null | head -n 1"
WRITTEN = f"kill $!; sleep 1; cat /tmp/end 2> /dev/null; [ $(cat /tmp/n) -le $({FIRST}) ] && cat /tmp/n"
ADDRESS = "172.30.0.2"


async def run(desk: Desk, name: str, command: str) -> str:
    """A shell command in the guest."""
    with attached(await desk.domid(name), alone=True) as console:
        return await asyncio.to_thread(console.run, command)


async def migrated(desk: Desk, name: str) -> dict[str, Any]:
    """What the task's result says; the machine is another domain now, and the only one."""
    before = await desk.domid(name)
    result: dict[str, Any] = (await desk.ask("migrate", name, "localhost"))["result"]
    assert await desk.domid(name) != before
    return result


def test_a_pvh_guest_goes_on_with_its_disk_and_its_interface(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        disk = desk.image("root.img")
        vif = f"bridge={guests.BRIDGE}"
        await desk.say("create", desk.linux("linux", "pvh", disk=[f"{disk},raw,xvda,rw"], vif=[vif]))
        await desk.up("linux")
        await run(desk, "linux", f"echo kept > /tmp/memory; ip addr add {ADDRESS}/24 dev eth0; ip link set eth0 up")
        await run(desk, "linux", WRITE)
        result = await migrated(desk, "linux")
        assert result["running"]
        assert result["rounds"] > 1
        assert await run(desk, "linux", "cat /tmp/memory") == "kept"
        assert int(await run(desk, "linux", WRITTEN)) > 0
        address = guests.BRIDGE_ADDRESS.partition("/")[0]
        assert "1 packets received" in await run(desk, "linux", f"ping -c 1 -w 30 {address}")
        assert [each["state"]["plugged"] for each in await desk.ask("vbd-list", "linux")] == [True]
        assert [each["state"]["plugged"] for each in await desk.ask("vif-list", "linux")] == [True]
        await desk.say("shutdown", "linux", "--timeout", "60")

    tell(story)


@long
def test_a_pv_guest_stands_still_for_all_of_it(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", desk.linux("linux", "pv", disk=[f"{desk.image('root.img')},raw,xvda,rw"]))
        await desk.up("linux")
        await run(desk, "linux", WRITE)
        assert (await migrated(desk, "linux"))["rounds"] == 1
        assert int(await run(desk, "linux", WRITTEN)) > 0

    tell(story)


@long
def test_an_image_that_a_qemu_serves_is_never_open_twice(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        image = await qcow2(desk, "-f", "raw", desk.image("empty.img"))
        await desk.say("create", desk.linux("linux", "pvh", disk=[f"{image},qcow2,xvda,rw"]))
        await desk.up("linux")
        await run(desk, "linux", WRITE)
        for _ in range(2):  # there and back: the disk is open where it has to be
            await migrated(desk, "linux")
        assert int(await run(desk, "linux", WRITTEN)) > 0
        await desk.say("destroy", "linux")
        check = await asyncio.to_thread(
            subprocess.run, ["qemu-img", "check", image], timeout=120, check=True, capture_output=True
        )
        assert b"No errors" in check.stdout

    tell(story)


@long
def test_an_emulated_guest(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        image = await qcow2(desk, str(guests.HVM_DISK))
        keys = {"type": "hvm", "memory": guests.HVM_MEMORY_MIB, "boot": "c", "rtc_timeoffset": 3600}
        await desk.say("create", desk.config("emulated", disk=[f"{image},qcow2,hda,w"], **keys))
        await desk.up("emulated", guests.HVM_UP)
        assert (await migrated(desk, "emulated"))["running"]
        assert (await desk.state("emulated"))["rtc_timeoffset"] == "3600"
        assert (await desk.screen("emulated")).startswith(b"RFB 003.008\n")
        await desk.say("console", "emulated", "--send", guests.HVM_POWEROFF.decode(), "--timeout", "1")
        await desk.until("emulated", power_state="Halted")

    tell(story)


@long
def test_what_cannot_go_stays_and_runs_on(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", desk.linux("linux", "pvh", disk=[f"{desk.image('root.img')},raw,xvda,rw"]))
        await desk.up("linux")
        await run(desk, "linux", WRITE)
        domid = await desk.domid("linux")
        await desk.say("pause", "linux")
        assert "unpause it first" in await desk.refused("migrate", "linux", "localhost")
        await desk.say("unpause", "linux")
        taken = {
            "kernel": str(guests.GRUB_PVH),
            "type": "pvh",
            "memory": await free_mib() - guests.LINUX_PVH_MEMORY_MIB // 2,
        }
        await desk.say("create", "--paused", desk.config("large", **taken))
        assert "memory" in await desk.refused("migrate", "linux", "localhost")
        assert await desk.domid("linux") == domid
        assert int(await run(desk, "linux", WRITTEN)) > 0

    tell(story)


async def free_mib() -> int:
    """What Xen has left."""
    said = await asyncio.to_thread(xl.run, "info", "free_memory")
    return int(said)


async def qcow2(desk: Desk, *source: str) -> str:
    """An image of that disk."""
    image = str(desk.folder / "root.qcow2")
    command = ["qemu-img", "convert", "-O", "qcow2", *source, image]
    await asyncio.to_thread(subprocess.run, command, timeout=120, check=True, stdout=subprocess.DEVNULL)
    return image
