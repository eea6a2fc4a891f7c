# SPDX-License-Identifier: Apache-2.0
"""Emulated guests by xenops-cli on the real hypervisor: cards, images, sleep in a file; with XEN_LIFE set."""

import asyncio
import os
import subprocess
from collections.abc import Callable

import pytest

from tests.xen import guests
from tests.xen.acceptance.desk import Desk, Story

Tell = Callable[[Story], None]
pytestmark = pytest.mark.skipif(not os.environ.get("XEN_LIFE"), reason="long: set XEN_LIFE")


def _machine(desk: Desk, *disks: str, **keys: object) -> str:
    settings = {"type": "hvm", "memory": guests.HVM_MEMORY_MIB, "boot": "c", "disk": [*disks], **keys}
    return desk.config("emulated", **settings)


@pytest.mark.parametrize("card", ["stdvga", "cirrus"])
def test_it_sleeps_in_a_file_and_goes_on(tell: Tell, card: str) -> None:
    async def story(desk: Desk) -> None:
        image = str(desk.folder / "root.qcow2")
        command = ["qemu-img", "convert", "-O", "qcow2", str(guests.HVM_DISK), image]
        await asyncio.to_thread(subprocess.run, command, timeout=120, check=True, stdout=subprocess.DEVNULL)
        await desk.say("create", _machine(desk, f"{image},qcow2,hda,w", vga=card, rtc_timeoffset=3600))
        await desk.up("emulated", guests.HVM_UP)
        before = await desk.state("emulated")
        assert before["rtc_timeoffset"] == "3600"
        then, memory = str(desk.folder / "then"), str(desk.folder / "memory")
        await desk.say("checkpoint", "emulated", "--file", then)
        await desk.say("suspend", "emulated", "--file", memory)
        await desk.say("resume", "emulated", "--file", memory)
        after = await desk.state("emulated")
        assert (after["memory_target"], after["rtc_timeoffset"]) == (before["memory_target"], "3600")
        assert (await desk.screen("emulated")).startswith(b"RFB 003.008\n")
        first = await desk.domid("emulated")
        await desk.say("console", "emulated", "--send", guests.HVM_RESET.decode(), "--timeout", "1")
        await desk.until_other("emulated", first)
        await desk.up("emulated", guests.HVM_UP)
        await desk.say("destroy", "emulated")
        await desk.say("resume", "--paused", "emulated", "--file", then)
        assert (await desk.state("emulated"))["power_state"] == "Paused"

    tell(story)
