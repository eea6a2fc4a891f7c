# SPDX-License-Identifier: Apache-2.0
"""xl's own tools on domains of ours, of each kind: what they say and do there is what they do on domains that xl made."""

import asyncio
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import xl
from tests.xen.acceptance.beside_xl.dumps import sections
from tests.xen.acceptance.console import attached, by_xl
from tests.xen.acceptance.desk import Desk, Story

Tell = Callable[[Story], None]
LONG = pytest.mark.skipif(not os.environ.get("XEN_LIFE"), reason="long: set XEN_LIFE")
TABLES = ("list", "vcpu-list", "uptime", "block-list", "network-list")
# What tells two domains of the same kind apart: names, numbers, times, addresses.
OWN = re.compile(r"ours|theirs|\b[0-9a-f]{2}(:[0-9a-f]{2}){5}\b|\b\d+(\.\d+)?\b|[r-][b-][p-][s-][c-][d-]|--p|-b-|r--")


def linux(kind: str, name: str, folder: Path, **keys: object) -> dict[str, object]:
    """The configuration of a Linux guest with a disk and an interface, for xl and for us."""
    image = folder / f"{name}.img"
    vif = [f"bridge={guests.BRIDGE}"]
    if kind == "hvm":
        image.write_bytes(guests.HVM_LINUX_DISK.read_bytes())
        disk = [f"{image},raw,hda,w", ",raw,hdc,r,cdrom"]
        return {
            "type": "hvm",
            "memory": guests.HVM_LINUX_MEMORY_MIB,
            "boot": "c",
            "hdtype": "ahci",
            "serial": "pty",
            "videoram": 8,  # xl's usual size
            "disk": disk,
            "vif": vif,
            **keys,
        }
    image.write_bytes(bytes(1 << 20))
    return {
        "type": kind,
        "memory": guests.LINUX_MEMORY_MIB if kind == "pv" else guests.LINUX_PVH_MEMORY_MIB,
        "kernel": str(guests.LINUX_ELF),
        "ramdisk": str(guests.LINUX_INITRAMFS),
        "extra": guests.LINUX_CMDLINE,
        "disk": [f"{image},raw,xvda,w"],
        "vif": vif,
        **keys,
    }


async def said(*words: str) -> str:
    return await asyncio.to_thread(xl.run, *words)


async def shapes(name: str) -> dict[str, list[list[str]]]:
    """What xl's tables say of a domain, without what no two have in common."""
    return {word: [OWN.sub("*", line).split() for line in (await said(word, name)).splitlines()] for word in TABLES}


async def state_of(name: str) -> str:
    """As `xl list` has it: r, b, p, s, c, d, each or a dash."""
    return (await said("list", name)).splitlines()[1].split()[4]


async def up(domid: int) -> None:
    with attached(domid) as console:
        await asyncio.to_thread(console.wait, guests.LINUX_UP, timeout_s=600)


@pytest.mark.parametrize("kind", [pytest.param("pv", marks=LONG), "pvh"])
def test_a_guest_that_obeys_nobody(tell: Tell, tmp_path: Path, kind: str) -> None:
    """GRUB: looked at, halted and let go on, spoken with, taken away."""
    kernel = str(guests.GRUB_PV if kind == "pv" else guests.GRUB_PVH)
    keys = {"type": kind, "kernel": kernel, "memory": guests.GRUB_MEMORY_MIB}
    image = tmp_path / "disk.img"
    image.write_bytes(bytes(1 << 20))
    devices = {"disk": [f"{image},raw,xvda,r"], "vif": [f"bridge={guests.BRIDGE}"]}

    async def story(desk: Desk) -> None:
        await desk.say("create", "--paused", desk.config("ours", cap=20, **keys, **devices))
        with xl.domain(xl.config(tmp_path, "theirs", **keys, **devices), "-p"):
            assert await shapes("ours") == await shapes("theirs")
        await said("unpause", "ours")
        await desk.until("ours", power_state="Running")
        await asyncio.to_thread(by_xl, "ours", send=b"echo not-$unset-echoed\r", until="not--echoed")
        await said("pause", "ours")
        assert "p" in await state_of("ours")
        await said("unpause", "ours")
        assert "Unable" not in await asyncio.to_thread(xl.complaints, "destroy", "ours")
        await desk.until("ours", power_state="Halted")

    tell(story)


@LONG
@pytest.mark.parametrize("kind", ["pv", "pvh", "hvm"])
def test_a_guest_that_obeys(tell: Tell, tmp_path: Path, kind: str) -> None:
    """Linux: looked at, spoken with, rebooted, shut down, taken away."""

    async def story(desk: Desk) -> None:
        await desk.say("create", desk.config("ours", **linux(kind, "ours", tmp_path)))
        await up(await desk.domid("ours"))
        with xl.domain(xl.config(tmp_path, "theirs", **linux(kind, "theirs", tmp_path))) as theirs:
            await up(theirs)
            assert await shapes("ours") == await shapes("theirs")
        words = ("-t", "pv", "ours") if kind == "hvm" else ("ours",)
        await asyncio.to_thread(by_xl, *words, send=b"echo not-$unset-echoed\n", until="not--echoed")
        if kind == "hvm":  # its serial port, which `xl console` prefers
            with attached(await desk.domid("ours")) as console:
                echo = "(while read l; do echo got $l; done < /dev/ttyS0 > /dev/ttyS0 2>&1 &)"
                await asyncio.to_thread(console.run, echo)
            await asyncio.to_thread(by_xl, "ours", send=b"hello\n", until="got hello")
        first = await desk.domid("ours")
        await said("reboot", "ours")
        await desk.until_other("ours", first)
        await up(await desk.domid("ours"))
        await said("shutdown", "-w", "ours")
        await desk.until("ours", power_state="Halted")
        await desk.say("start", "ours")
        await up(await desk.domid("ours"))
        assert "Unable" not in await asyncio.to_thread(xl.complaints, "destroy", "ours")
        await desk.until("ours", power_state="Halted")

    tell(story)


def test_vcpus_run_where_they_were_told_to(tell: Tell, tmp_path: Path) -> None:
    """On a host with more than one processor: XEN_RIG_VCPUS=2."""
    if int(xl.run("info", "nr_cpus")) < 2:
        pytest.skip("this host has one processor: XEN_RIG_VCPUS=2")
    keys = {"type": "pv", "kernel": str(guests.GRUB_PV), "memory": guests.GRUB_MEMORY_MIB, "vcpus": 2}

    async def story(desk: Desk) -> None:
        await desk.say("create", "--paused", desk.config("ours", cap=20, cpus=["1", "0-1"], **keys))
        with xl.domain(xl.config(tmp_path, "theirs", cpus=["1", "0-1"], **keys), "-p"):
            assert await affinity("ours") == await affinity("theirs") == ["1 / all", "all / all"]
        await said("vcpu-pin", "ours", "1", "0")
        assert await affinity("ours") == ["1 / all", "0 / all"]
        await desk.say("unpause", "ours")
        with attached(await desk.domid("ours")) as console:
            await asyncio.to_thread(console.wait, guests.GRUB_PROMPT)
        [first] = [line.split() for line in (await said("vcpu-list", "ours")).splitlines() if line.split()[2] == "0"]
        assert first[3] == "1"

    tell(story)


async def affinity(name: str) -> list[str]:
    """Of each vCPU, as xl has it: hard and soft."""
    lines = (await said("vcpu-list", name)).splitlines()[1:]
    return [" ".join(line.split()[6:]) for line in lines]


@LONG
def test_a_core_that_xl_takes_is_the_one_that_it_takes_of_its_own(tell: Tell, tmp_path: Path) -> None:
    """Of a PV guest. libxc looks at each page below 4 GiB of the other kinds: minutes of emulation, for xl's own as well."""

    async def story(desk: Desk) -> None:
        await desk.say("create", desk.config("ours", **linux("pv", "ours", tmp_path)))
        await up(await desk.domid("ours"))
        ours, theirs = tmp_path / "ours.core", tmp_path / "theirs.core"
        with xl.domain(xl.config(tmp_path, "theirs", **linux("pv", "theirs", tmp_path))) as domid:
            await up(domid)
            await said("dump-core", "theirs", str(theirs))
        await said("dump-core", "ours", str(ours))
        assert await asyncio.to_thread(sections, ours) == await asyncio.to_thread(sections, theirs)
        ours.unlink()
        theirs.unlink()

    tell(story)
