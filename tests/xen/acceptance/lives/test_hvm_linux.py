# SPDX-License-Identifier: Apache-2.0
"""A Linux with front drivers as an emulated guest: it answers, sleeps, opens its CD drive; with XEN_LIFE set."""

import asyncio
import os
from collections.abc import Callable
from typing import Any

import pytest

from tests.xen import guests
from tests.xen.acceptance.console import attached
from tests.xen.acceptance.desk import Desk, Story
from xenopsd.backends.xen.domctl import Domctl, HvmParam

Tell = Callable[[Story], None]
pytestmark = pytest.mark.skipif(not os.environ.get("XEN_LIFE"), reason="long: set XEN_LIFE")
BOOTS_S = 600
SUSPENDED_TO_MEMORY = 3
READ = "dd if=/dev/sr0 bs=2048 count=1 skip=16 2> /dev/null | tr -d '\\0' | cut -c 2-6"  # of the volume's description
NO_MEDIUM = "! dd if=/dev/sr0 of=/dev/null bs=2048 count=1 2> /dev/null"


def machine(desk: Desk, **keys: Any) -> str:
    disk = desk.image("root.img", guests.HVM_LINUX_DISK.read_bytes())
    usual = {"type": "hvm", "memory": guests.HVM_LINUX_MEMORY_MIB, "boot": "c", "hdtype": "ahci"}
    devices = {"disk": [f"{disk},raw,hda,w", ",raw,hdc,r,cdrom"], "vif": [f"bridge={guests.BRIDGE}"]}
    return desk.config("linux", **usual, **devices, **keys)


async def run(desk: Desk, command: str) -> str:
    with attached(await desk.domid("linux")) as console:
        return await asyncio.to_thread(console.run, command)


async def up(desk: Desk) -> None:
    with attached(await desk.domid("linux")) as console:
        await asyncio.to_thread(console.wait, guests.LINUX_UP, timeout_s=BOOTS_S)


async def drive(desk: Desk) -> dict[str, Any]:
    [found] = [each for each in await desk.ask("vbd-list", "linux") if each["vbd"]["position"] == "hdc"]
    state: dict[str, Any] = found["state"]
    return state


async def asleep(domid: int) -> None:
    """Wait until QEMU has told Xen that the machine is in S3."""
    xc = Domctl()
    try:
        async with asyncio.timeout(BOOTS_S):
            while await xc.get_hvm_param(domid, HvmParam.ACPI_S_STATE) != SUSPENDED_TO_MEMORY:  # noqa: ASYNC110 (Xen has no event)
                await asyncio.sleep(0.1)
    finally:
        await xc.close()


def test_it_answers_and_sleeps_and_ends(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", machine(desk, maxmem=guests.HVM_LINUX_MEMORY_MIB, vcpus=1, maxvcpus=2))
        await up(desk)
        state = await desk.state("linux")
        assert state["pv_drivers_detected"]
        await desk.say("vcpu-set", "linux", "2")
        online = "until echo 1 > /sys/devices/system/cpu/cpu1/online; do sleep 1; done 2> /dev/null; nproc"
        assert await run(desk, online) == "2"
        smaller = guests.HVM_LINUX_MEMORY_MIB - 32
        await desk.say("mem-set", "linux", str(smaller))
        await desk.until("linux", memory_target=smaller << 20)
        await run(desk, "echo remembered > /tmp/word")
        image = str(desk.folder / "memory")
        await desk.say("suspend", "linux", "--file", image)
        assert (await desk.state("linux"))["power_state"] == "Suspended"
        await desk.say("resume", "linux", "--file", image)
        assert (
            await run(desk, "cat /tmp/word; nproc; dd if=/dev/xvda of=/dev/null count=1 2> /dev/null")
            == "remembered\n2"
        )
        first = await desk.domid("linux")
        await desk.say("reboot", "linux", "--timeout", "120")
        assert await desk.domid("linux") != first
        await up(desk)
        await desk.say("shutdown", "linux", "--timeout", "120")
        assert (await desk.state("linux"))["power_state"] == "Halted"

    tell(story)


def test_a_cd_goes_in_and_comes_out_on_both_sides(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        await desk.say("create", machine(desk))
        await up(desk)
        await run(desk, NO_MEDIUM)
        await desk.say("cd-insert", "linux.hdc", str(guests.HVM_CD))
        assert await run(desk, f"until {READ} | grep CD001; do sleep 1; done") == "CD001"
        await desk.say("cd-eject", "linux.hdc")
        await run(desk, f"until {NO_MEDIUM}; do sleep 1; done")
        await desk.say("cd-insert", "linux.hdc", str(guests.HVM_CD))
        await run(desk, f"until {READ} | grep CD001; do sleep 1; done")
        await run(desk, "echo 1 > /proc/sys/dev/cdrom/autoeject; dd if=/dev/sr0 of=/dev/null count=1 2> /dev/null")
        token = await desk.ask("api", "UPDATES.last_id", "{}")
        while (await drive(desk)).get("backend_present"):
            token = (await desk.ask("api", "UPDATES.get", f'{{"last_id": {token}, "timeout": 30}}'))["token"]
        await desk.say("cd-insert", "linux.hdc", str(guests.HVM_CD))
        assert (await drive(desk))["backend_present"]["path"] == str(guests.HVM_CD)

    tell(story)


def test_it_sleeps_as_a_pc_does(tell: Tell) -> None:
    """S3: the guest goes to sleep by itself, and is woken."""

    async def story(desk: Desk) -> None:
        await desk.say("create", machine(desk))
        await up(desk)
        with attached(await desk.domid("linux")) as console:
            await asyncio.to_thread(console.run, "echo deep > /sys/power/mem_sleep; echo -n mem > /tmp/how")
            console.send(b"cat /tmp/how > /sys/power/state; echo it-$unset-woke\n")
            await asleep(await desk.domid("linux"))
            await desk.call("VM.s3resume", "linux")
            await asyncio.to_thread(console.wait, "it--woke", timeout_s=BOOTS_S)

    tell(story)


def test_a_cd_boots(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        disk = desk.image("root.img", guests.HVM_DISK.read_bytes())
        disks = [f"{disk},raw,hda,w", f"{guests.HVM_CD},raw,hdc,r,cdrom"]
        config = desk.config("cd", type="hvm", memory=guests.HVM_MEMORY_MIB, boot="d", disk=disks)
        await desk.say("create", config)
        await desk.up("cd", guests.HVM_CD_UP)
        await desk.say("console", "cd", "--send", guests.HVM_POWEROFF.decode(), "--timeout", "1")
        await desk.until("cd", power_state="Halted")

    tell(story)
