# SPDX-License-Identifier: Apache-2.0
"""Configurations that others wrote, and kernels that others built: started by xenops-cli as xl would, or refused by name.

It takes minutes, so only with XEN_LIFE set.
"""

import asyncio
import os
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance.desk import Desk, Story

Tell = Callable[[Story], None]
pytestmark = pytest.mark.skipif(not os.environ.get("XEN_LIFE"), reason="long: set XEN_LIFE")
EXAMPLES = sorted(Path("/etc/xen").glob("xlexample.*"))
# As xen-tools of Debian writes it.
XEN_TOOLS = """
kernel      = '{kernel}'
extra       = 'elevator=noop console=hvc0'
ramdisk     = '{ramdisk}'
vcpus       = '1'
memory      = '128'
root        = '/dev/xvda2 ro'
disk        = [
                  'file:{root},xvda2,w',
                  'file:{swap},xvda1,w',
              ]
name        = 'tools'
dhcp        = 'dhcp'
vif         = [ 'mac=00:16:3E:11:22:33,bridge=xenbr0' ]
on_poweroff = 'destroy'
on_reboot   = 'restart'
on_crash    = 'restart'
"""


def _losetup(*words: str) -> str:
    return subprocess.run(["losetup", *words], capture_output=True, text=True, timeout=60, check=True).stdout.strip()


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[None]:
    """What the examples name: a volume, and a kernel."""
    disk = tmp_path / "volume.img"
    disk.write_bytes(guests.HVM_DISK.read_bytes())
    device = _losetup("-f", "--show", str(disk))
    links = [Path("/dev/vg/guest-volume"), Path("/dev/zvol/tank/guest-volume"), Path("/boot/vmlinuz")]
    for link in links:
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(guests.LINUX_BZIMAGE if link.name == "vmlinuz" else device)
    yield
    for link in links:
        link.unlink()
    _losetup("-d", device)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.suffix[1:])
def test_the_examples_of_xen_start(tell: Tell, volumes: None, example: Path) -> None:
    async def story(desk: Desk) -> None:
        id = (await desk.say("create", "--paused", str(example))).strip()
        assert all(each["state"]["plugged"] for each in await desk.ask("vbd-list", id))
        assert all(each["state"]["plugged"] for each in await desk.ask("vif-list", id))
        if example.suffix == ".hvm":
            await desk.say("unpause", id)
            await desk.up(id, guests.HVM_UP)
        await desk.say("destroy", id)

    tell(story)


def test_our_own_example_starts(tell: Tell) -> None:
    """examples/myfirstvm.cfg, word by word, with the disk that it names."""
    example = Path(__file__).parents[4] / "examples" / "myfirstvm.cfg"

    async def story(desk: Desk) -> None:
        disk = desk.image("first.img", guests.HVM_DISK.read_bytes())
        await asyncio.to_thread(_losetup, "/dev/loop0", disk)
        try:
            await desk.say("create", str(example))
            await desk.up("myfirstvm", guests.HVM_UP)
            assert (await desk.screen("myfirstvm")).startswith(b"RFB 003.008\n")
            await desk.say("destroy", "myfirstvm")
        finally:
            await asyncio.to_thread(_losetup, "-d", "/dev/loop0")

    tell(story)


def test_what_xen_tools_writes_starts(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        path = desk.folder / "tools.cfg"
        files = {"kernel": guests.LINUX_BZIMAGE, "ramdisk": guests.LINUX_INITRAMFS}
        disks = {"root": desk.image("disk.img"), "swap": desk.image("swap.img")}
        path.write_text(XEN_TOOLS.format(**files, **disks))
        said = await desk.try_to("create", str(path))
        assert said.status == 0, said.err
        assert "only xm knew this key" in said.err  # dhcp
        await desk.up("tools")

    tell(story)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "neither an ELF image nor a Linux bzImage"),
        (b"\x1f\x8b no archive at all", "."),
        (None, "No such file"),
    ],
    ids=["empty", "broken gzip", "missing"],
)
def test_what_is_no_kernel_is_refused_by_name(tell: Tell, content: bytes | None, words: str) -> None:
    async def story(desk: Desk) -> None:
        kernel = desk.folder / "kernel"
        if content is not None:
            kernel.write_bytes(content)
        await desk.say("add", desk.config("wrong", kernel=str(kernel), memory=32))
        complaint = await desk.refused("start", "wrong")
        assert str(kernel) in complaint
        assert re.search(words, complaint)
        assert (await desk.state("wrong"))["power_state"] == "Halted"

    tell(story)


def test_a_disk_that_guests_share(tell: Tell) -> None:
    async def story(desk: Desk) -> None:
        shared = desk.image("shared.img")
        for name, access in (("one", "w!"), ("two", "w!"), ("three", "w")):
            keys = {"kernel": str(guests.GRUB_PV), "memory": guests.GRUB_MEMORY_MIB}
            await desk.say("add", desk.config(name, disk=[f"{shared},raw,xvda,{access}"], **keys))
        await desk.say("start", "--paused", "one")
        await desk.say("start", "--paused", "two")
        assert "writes to it" in await desk.refused("start", "--paused", "three")

    tell(story)


def test_the_display_is_the_one_that_the_configuration_names(tell: Tell) -> None:
    address = guests.BRIDGE_ADDRESS.partition("/")[0]

    def greeting() -> bytes:
        with socket.create_connection((address, 5907), 30) as viewer:
            return viewer.recv(12)

    async def story(desk: Desk) -> None:
        disk = desk.image("disk.img", guests.HVM_DISK.read_bytes())
        keys = {"memory": guests.HVM_MEMORY_MIB, "disk": [f"{disk},raw,hda,w"], "vnc": 1}
        await desk.say("create", "--paused", desk.config("shown", type="hvm", vnclisten=f"{address}:7", **keys))
        assert await asyncio.to_thread(greeting) == b"RFB 003.008\n"
        await desk.say("destroy", "shown")

    tell(story)
