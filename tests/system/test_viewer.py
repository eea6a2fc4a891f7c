# SPDX-License-Identifier: Apache-2.0
"""A real VNC viewer at a machine's screen: TigerVNC's, on a display of its own, through vncproxy.

What the viewer shows is read from the frame buffer file of its display; keys are typed as an X client types them.
"""

import asyncio
import os
import shutil
import struct
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from deploy.local.stack import Stack
from tests.system.test_stack import with_stack
from xenops.client import Xenops
from xenops.interfaces.console import CONSOLE
from xenops.rpc import stub
from xenops.types.console import ConsoleProtocol
from xenops.types.vm import Hvm, Vm
from xenops.where import Where

MISSING = [program for program in ("Xvfb", "xtigervncviewer", "xdotool") if shutil.which(program) is None]
pytestmark = pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
# The simulator's screen: bars of 20 pixels, which move on by one whenever the guest prints.
BARS = (0xFFFFFF, 0xFFFF1C, 0x1CFFFF, 0x1CE21C, 0xE21CE2, 0xE21C1C, 0x1C1CE2, 0x1C1C1C)
BAR, HEIGHT = 20, 100
Runs = list[tuple[int, int]]


@dataclass
class Display:
    """An X server without a screen; `environ` is for its clients."""

    environ: dict[str, str]
    frame_buffer: Path

    def bars(self) -> tuple[int, ...] | None:
        """The colours from left to right, if a screen of eight bars is shown in full and nothing else; or None."""
        rows = [runs for runs in self._rows() if len(runs) > 1]
        if len(rows) != HEIGHT or any(row != rows[0] for row in rows):
            return None
        shown = [run for run in rows[0] if run[0] != 0]  # black, without any of it, is around the viewer's window
        return tuple(colour for colour, _ in shown) if {width for _, width in shown} == {BAR} else None

    def blank(self) -> bool:
        """Whether nothing at all is shown."""
        return all(len(runs) == 1 for runs in self._rows())

    def _rows(self) -> list[Runs]:
        """Each row of pixels as colours with their widths; the file is in X's format of window dumps."""
        dump = self.frame_buffer.read_bytes()
        header = struct.unpack(">25I", dump[:100])
        start, width, height, stride, colours = header[0], header[4], header[5], header[12], header[19]
        start += 12 * colours
        rows = (dump[start + y * stride :][: 4 * width] for y in range(height))
        return [_runs([pixel & 0xFFFFFF for (pixel,) in struct.iter_unpack("<I", row)]) for row in rows]


def _runs(pixels: list[int]) -> Runs:
    edges = [0, *(x for x in range(1, len(pixels)) if pixels[x] != pixels[x - 1]), len(pixels)]
    return [(pixels[start], end - start) for start, end in pairwise(edges)]


@asynccontextmanager
async def running(*command: str, environ: dict[str, str], descriptor: int | None = None) -> AsyncIterator[Process]:
    handed = () if descriptor is None else (descriptor,)
    process = await asyncio.create_subprocess_exec(*command, env=environ, pass_fds=handed)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


@asynccontextmanager
async def display(folder: Path) -> AsyncIterator[Display]:
    """A display with a number that nobody else has."""
    environ = {**os.environ, "HOME": str(folder)}
    reading, writing = os.pipe()
    command = ("Xvfb", "-displayfd", str(writing), "-screen", "0", "320x240x24", "-fbdir", str(folder))
    try:
        async with running(*command, "-nolisten", "tcp", "-noreset", "-nocursor", environ=environ, descriptor=writing):
            os.close(writing)
            number = await asyncio.to_thread(lambda: os.read(reading, 20).decode().strip())
            assert number, "Xvfb did not start"
            yield Display({**environ, "DISPLAY": f":{number}"}, folder / "Xvfb_screen0")
    finally:
        os.close(reading)


async def until(seen: Callable[[], bool]) -> None:
    """The X server tells nobody that its frame buffer has changed: look again and again until it has."""
    while not await asyncio.to_thread(seen):  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def xdotool(screen: Display, *arguments: str) -> None:
    async with running("xdotool", *arguments, environ=screen.environ) as process:
        assert await process.wait() == 0, arguments


def test_a_viewer_shows_the_screen_and_types_on_it(tmp_path: Path) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        await xenops.VM.add(Vm(id="vm-1", name="seen", ty=Hvm()))
        await xenops.finished(await xenops.VM.start("vm-1", paused=False))
        consoles = stub(CONSOLE, xenops.bus, found.console)
        text = await consoles.open("vm-1", protocol=ConsoleProtocol.VT100)
        reader, writer = await asyncio.open_connection(text.host, text.port)
        await reader.readuntil(b"login: ")
        picture = await consoles.open("vm-1", protocol=ConsoleProtocol.RFB)
        command = ("xtigervncviewer", "-SecurityTypes=None", f"{picture.host}::{picture.port}")
        async with display(tmp_path) as screen, running(*command, environ=screen.environ) as viewer:
            await until(lambda: screen.bars() == BARS)
            await xenops.DEBUG.trigger("print", ["vm-1", "something new"])
            await until(lambda: screen.bars() == BARS[1:] + BARS[:1])
            focus = ("search", "--sync", "--name", "simulated seen", "windowfocus", "--sync", "mousemove", "60", "60")
            await xdotool(screen, *focus, "type", "--delay", "30", "Halt?")
            await reader.readuntil(b"Halt?")
            await xdotool(screen, "key", "BackSpace", "BackSpace", "a")
            await reader.readuntil(b"\b \b\b \ba")
            assert viewer.returncode is None
            await xdotool(screen, "key", *(["BackSpace"] * 4), "h", "a", "l", "t", "Return")
            await reader.readuntil(b"Power down")
            assert await viewer.wait() == 0, "the viewer ends with its machine"
            await until(screen.blank)
        writer.close()
        await writer.wait_closed()

    with_stack(tmp_path, work)
