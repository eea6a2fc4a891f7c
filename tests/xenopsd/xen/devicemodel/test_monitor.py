# SPDX-License-Identifier: Apache-2.0
"""Speaking with a monitor: a QEMU of this machine, and one that misbehaves."""

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from xenops.errors import IoError, StepTimedOut
from xenopsd.backends.xen.devicemodel.arguments import SANDBOX
from xenopsd.backends.xen.devicemodel.monitor import CommandRefused, Monitor
from xenopsd.backends.xen.devicemodel.qmp import Event

QEMU = shutil.which("qemu-system-x86_64")
HELLO = b'{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}\n'
AGREED = b'{"return": {}, "id": 1}\n'

needs_qemu = pytest.mark.skipif(QEMU is None, reason="qemu-system-x86 is not installed")


@asynccontextmanager
async def emulator(folder: Path) -> AsyncIterator[Path]:
    """A QEMU that emulates nothing but an empty CD drive."""
    path = folder / "qmp"
    assert QEMU is not None
    words = ["-machine", "pc", "-accel", "tcg", "-m", "4", "-S", "-nodefaults", "-display", "none", "-serial", "pty"]
    process = await asyncio.create_subprocess_exec(
        QEMU,
        *words,
        *("-drive", "if=ide,index=2,media=cdrom,id=ide-5632", "-qmp", f"unix:{path},server=on,wait=off", "-daemonize"),
        *("-pidfile", str(folder / "pid"), "-sandbox", SANDBOX),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, complaints = await process.communicate()  # it is in the background now, and its socket is there
    assert process.returncode == 0, complaints
    try:
        yield path
    finally:
        last = await Monitor.open(path, lambda _: None)
        await last.execute("quit")
        with contextlib.suppress(IoError):
            while True:  # until it has gone
                await last.execute("query-status")
        await last.close()


@asynccontextmanager
async def misbehaving(
    folder: Path, converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[Path]:
    """Somebody who listens where a QEMU should."""
    path = folder / "qmp"

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await converse(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(served, path)
    async with server:
        yield path


@needs_qemu
def test_a_real_qemu_obeys_refuses_and_tells(tmp_path: Path) -> None:
    medium = tmp_path / "medium.iso"
    medium.write_bytes(bytes(4096))
    heard: list[Event] = []

    async def scenario() -> None:
        async with emulator(tmp_path) as path:
            monitor = await Monitor.open(path, heard.append)
            assert (await monitor.execute("query-status"))["status"] == "prelaunch"
            ports = await monitor.execute("query-chardev")
            assert any(port["label"] == "serial0" and port["filename"].startswith("pty:/dev/") for port in ports)
            with pytest.raises(CommandRefused, match="nonsense"):
                await monitor.execute("nonsense")
            with pytest.raises(CommandRefused) as refusal:
                await monitor.execute("eject", {"device": "ide-9"})
            assert refusal.value.kind == "DeviceNotFound"
            change = {"device": "ide-5632", "filename": str(medium), "format": "raw", "read-only-mode": "read-only"}
            await monitor.execute("blockdev-change-medium", change)
            await monitor.execute("eject", {"device": "ide-5632", "force": True})
            assert {event.name for event in heard} == {"DEVICE_TRAY_MOVED"}
            # Many who want something at once are heard one after the other.
            answers = await asyncio.gather(*(monitor.execute("query-name") for _ in range(20)))
            assert answers == [{}] * 20
            await monitor.close()
            await monitor.close()
            with pytest.raises(IoError):
                await monitor.execute("query-status")
            # The next life of ours is heard once this one has gone.
            again = await Monitor.open(path, heard.append)
            assert (await again.execute("query-status"))["running"] is False
            await again.close()

    asyncio.run(scenario())


def test_an_answer_that_comes_too_late_is_nobodys(tmp_path: Path) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await reader.readline()
        writer.write(AGREED)
        await reader.readline()
        await reader.readline()  # the first command is answered only now
        writer.write(b'{"return": "first", "id": 2}\n{"return": "second", "id": 3}\n')
        await reader.read()

    async def scenario() -> None:
        async with misbehaving(tmp_path, converse) as path:
            monitor = await Monitor.open(path, lambda _: None)
            with pytest.raises(StepTimedOut):
                await monitor.execute("first", timeout_s=0.05)
            assert await monitor.execute("second") == "second"
            await monitor.close()

    asyncio.run(scenario())


def test_whoever_waits_when_it_dies_is_told(tmp_path: Path) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(HELLO)
        await reader.readline()
        writer.write(AGREED)
        await reader.readline()

    async def scenario() -> None:
        async with misbehaving(tmp_path, converse) as path:
            monitor = await Monitor.open(path, lambda _: None)
            with pytest.raises(IoError, match="closed"):
                await monitor.execute("stop")
            assert monitor.lost
            with pytest.raises(IoError):
                await monitor.execute("cont")
            await monitor.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("said", [b"SSH-2.0\n", b"", b'{"return": {}, "id": 1}\n'])
def test_who_is_no_monitor_is_left(tmp_path: Path, said: bytes) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(said)
        await writer.drain()

    async def scenario() -> None:
        async with misbehaving(tmp_path, converse) as path:
            with pytest.raises(IoError):
                await Monitor.open(path, lambda _: None)

    asyncio.run(scenario())


def test_who_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def scenario() -> None:
        async with misbehaving(tmp_path, converse) as path:
            with pytest.raises(StepTimedOut):
                await Monitor.open(path, lambda _: None, timeout_s=0.1)
        with pytest.raises(IoError):
            await Monitor.open(tmp_path / "nobody", lambda _: None)

    asyncio.run(scenario())
