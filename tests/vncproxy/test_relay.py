# SPDX-License-Identifier: Apache-2.0
"""Real sockets: one viewer, one console, every byte, and nothing left open."""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from vncproxy.metrics import Metrics
from vncproxy.relay import Relay
from xenops.errors import Busy, DoesNotExist
from xenops.types.console import Console, ConsoleProtocol, ConsoleRoute

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
QEMU = shutil.which("qemu-system-x86_64")


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Say welcome, then what was said, in capitals, and goodbye when the other has finished."""
    writer.write(b"welcome\n")
    while line := await reader.readline():
        writer.write(line.upper())
        await writer.drain()
    writer.write(b"goodbye\n")
    writer.close()


@asynccontextmanager
async def console_at(path: Path, serve: Serve = echo) -> AsyncIterator[Console]:
    async with await asyncio.start_unix_server(serve, path):
        yield Console(protocol=ConsoleProtocol.VT100, path=str(path))


@asynccontextmanager
async def relaying(
    *, expires_s: float = 30.0, limit: int = 8, half_closed_s: float = 30.0, registry: CollectorRegistry | None = None
) -> AsyncIterator[Relay]:
    relay = Relay(
        Metrics(registry or CollectorRegistry()), expires_s=expires_s, limit=limit, half_closed_s=half_closed_s
    )
    before = len(os.listdir("/proc/self/fd"))
    try:
        yield relay
    finally:
        await relay.close()
        assert relay.sessions == 0
        for _ in range(1000):  # the test's own ends of the connections close in later turns of the loop
            if len(os.listdir("/proc/self/fd")) <= before:
                break
            await asyncio.sleep(0.005)
        else:
            raise AssertionError("a socket was left open")


async def view(route: ConsoleRoute) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(route.host, route.port)


async def ended(relay: Relay) -> None:
    """All sessions have come to their end by themselves."""
    async with asyncio.timeout(20):
        while relay._sessions:
            await asyncio.wait(relay._sessions)


def count(registry: CollectorRegistry, outcome: str, protocol: str = "Vt100") -> float | None:
    return registry.get_sample_value("vncproxy_sessions_total", {"protocol": protocol, "outcome": outcome})


def test_a_conversation_with_half_close_both_ways(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with console_at(tmp_path / "c") as console, relaying(registry=registry) as relay:
            route = await relay.open("vm", console)
            assert (route.host, route.protocol) == ("127.0.0.1", ConsoleProtocol.VT100)
            reader, writer = await view(route)
            assert await reader.readline() == b"welcome\n"
            writer.write(b"hello\n")
            assert await reader.readline() == b"HELLO\n"
            writer.write_eof()
            assert await reader.read() == b"goodbye\n"
            writer.close()
            await ended(relay)

    asyncio.run(main())
    assert count(registry, "done") == 1
    assert registry.get_sample_value("vncproxy_bytes_total", {"direction": "to_console"}) == 6
    assert registry.get_sample_value("vncproxy_bytes_total", {"direction": "from_console"}) == 22
    assert registry.get_sample_value("vncproxy_open_sessions") == 0


def test_a_console_on_a_loopback_port_is_reached_too() -> None:
    async def main() -> None:
        async with await asyncio.start_server(echo, "127.0.0.1", 0) as server, relaying() as relay:
            port = server.sockets[0].getsockname()[1]
            reader, writer = await view(await relay.open("vm", Console(protocol=ConsoleProtocol.RFB, port=port)))
            assert await reader.readline() == b"welcome\n"
            writer.close()
            await ended(relay)

    asyncio.run(main())


def test_the_first_viewer_is_the_only_one(tmp_path: Path) -> None:
    async def main() -> None:
        async with console_at(tmp_path / "c") as console, relaying() as relay:
            route = await relay.open("vm", console)
            reader, writer = await view(route)
            assert await reader.readline() == b"welcome\n"
            with pytest.raises(ConnectionRefusedError):
                await view(route)
            writer.write(b"still here\n")
            assert await reader.readline() == b"STILL HERE\n"
            writer.close()

    asyncio.run(main())


def test_two_sessions_do_not_meet(tmp_path: Path) -> None:
    async def main() -> None:
        async with console_at(tmp_path / "c") as console, relaying() as relay:
            viewers = [await view(await relay.open("vm", console)) for _ in range(5)]
            for n, (_, writer) in enumerate(viewers):
                writer.write(b"number %d\n" % n)
            for n, (reader, writer) in enumerate(viewers):
                assert await reader.readline() == b"welcome\n"
                assert await reader.readline() == b"NUMBER %d\n" % n
                writer.close()

    asyncio.run(main())


def test_nobody_coming_the_port_closes_and_the_console_is_let_go(tmp_path: Path) -> None:
    registry, let_go = CollectorRegistry(), []

    async def main() -> None:
        gone = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            let_go.append(await reader.read())
            writer.close()
            gone.set()

        async with console_at(tmp_path / "c", serve) as console, relaying(expires_s=0.05, registry=registry) as relay:
            route = await relay.open("vm", console)
            await gone.wait()
            await ended(relay)
            with pytest.raises(ConnectionRefusedError):
                await view(route)

    asyncio.run(main())
    assert let_go == [b""]
    assert count(registry, "expired") == 1


@pytest.mark.parametrize(
    "console",
    [
        Console(protocol=ConsoleProtocol.VT100, path="/no/such/socket"),
        Console(protocol=ConsoleProtocol.VT100, path="/" + "x" * 300),
        Console(protocol=ConsoleProtocol.VT100, port=1),
        Console(protocol=ConsoleProtocol.VT100),
        Console(protocol=ConsoleProtocol.VT100, port=70000),
    ],
)
def test_a_console_that_is_not_there_is_a_named_fault(console: Console) -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with relaying(registry=registry) as relay:
            with pytest.raises(DoesNotExist) as fault:
                await relay.open("vm", console)
            assert fault.value.key == "vm/Vt100"

    asyncio.run(main())
    assert count(registry, "unreachable") == 1


def test_beyond_the_limit_is_busy(tmp_path: Path) -> None:
    async def main() -> None:
        async with console_at(tmp_path / "c") as console, relaying(limit=1) as relay:
            reader, writer = await view(await relay.open("vm", console))
            with pytest.raises(Busy):
                await relay.open("vm", console)
            writer.close()
            await reader.read()
            await ended(relay)
            await relay.open("vm", console)

    asyncio.run(main())


def test_a_viewer_that_does_not_read_holds_the_console_back(tmp_path: Path) -> None:
    """The console can send what the kernel's buffers and one chunk hold, and then has to wait; later all arrives."""
    total = 64 << 20

    async def main() -> None:
        sent, stuck = 0, asyncio.Event()

        async def flood(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal sent
            end: socket.socket = writer.get_extra_info("socket")
            raw = socket.socket(fileno=os.dup(end.fileno()))
            raw.setblocking(False)
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            loop = asyncio.get_running_loop()
            piece = bytes(1 << 16)
            while sent < total:
                try:
                    async with asyncio.timeout(None if stuck.is_set() else 1.0):
                        await loop.sock_sendall(raw, piece)
                except TimeoutError:
                    stuck.set()
                    break
                sent += len(piece)
            raw.close()
            writer.close()

        async with console_at(tmp_path / "c", flood) as console, relaying() as relay:
            reader, writer = await view(await relay.open("vm", console))
            writer.transport.pause_reading()  # type: ignore[attr-defined]
            await stuck.wait()
            assert sent < total
            writer.transport.resume_reading()  # type: ignore[attr-defined]
            received = 0
            while some := await reader.read(1 << 20):
                received += len(some)
            assert received >= sent
            writer.close()
            await ended(relay)

    asyncio.run(main())


def test_a_viewer_that_breaks_off_ends_the_session(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with console_at(tmp_path / "c") as console, relaying(registry=registry) as relay:
            reader, writer = await view(await relay.open("vm", console))
            await reader.readline()
            raw: socket.socket = writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # a reset rather than an end
            writer.transport.abort()
            await ended(relay)

    asyncio.run(main())
    assert count(registry, "failed") == 1


def test_a_console_that_ends_ends_the_viewer(tmp_path: Path) -> None:
    async def main() -> None:
        async def last_words(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"rebooting")
            writer.close()

        async with console_at(tmp_path / "c", last_words) as console, relaying() as relay:
            reader, writer = await view(await relay.open("vm", console))
            assert await reader.read() == b"rebooting"
            writer.close()
            await ended(relay)

    asyncio.run(main())


def test_a_viewer_gone_for_good_does_not_keep_a_silent_console(tmp_path: Path) -> None:
    async def main() -> None:
        done = asyncio.Event()

        async def silent(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await done.wait()
            writer.close()

        async with console_at(tmp_path / "c", silent) as console, relaying(half_closed_s=0.05) as relay:
            _, writer = await view(await relay.open("vm", console))
            writer.close()
            await ended(relay)
            done.set()

    asyncio.run(main())


def test_closing_ends_waiting_connected_and_unbegun_sessions(tmp_path: Path) -> None:
    registry = CollectorRegistry()

    async def main() -> None:
        async with console_at(tmp_path / "c") as console, relaying(registry=registry) as relay:
            waiting = await relay.open("vm", console)
            reader, writer = await view(await relay.open("vm", console))
            await reader.readline()
            unbegun = await relay.open("vm", console)
            await relay.close()
            with contextlib.suppress(ConnectionResetError):
                assert await reader.read() == b""
            writer.close()
            for route in (waiting, unbegun):
                with pytest.raises(ConnectionRefusedError):
                    await view(route)

    asyncio.run(main())
    assert count(registry, "stopped") == 3


@pytest.mark.skipif(QEMU is None, reason="qemu-system-x86_64 is not installed")
def test_a_real_vnc_server_shakes_hands_through_it(tmp_path: Path) -> None:
    assert QEMU is not None
    path = tmp_path / "v.sock"
    command = [QEMU, "-M", "pc", "-accel", "tcg", "-m", "32", "-nodefaults", "-vga", "std", "-S", "-display", "none"]

    async def main() -> None:
        async with relaying() as relay, asyncio.timeout(40):
            console = Console(protocol=ConsoleProtocol.RFB, path=str(path))
            while True:
                try:
                    route = await relay.open("vm", console)
                    break
                except DoesNotExist:
                    await asyncio.sleep(0.05)  # it is still starting
            reader, writer = await view(route)
            assert await reader.readexactly(12) == b"RFB 003.008\n"
            writer.write(b"RFB 003.008\n")
            kinds = await reader.readexactly((await reader.readexactly(1))[0])
            assert 1 in kinds
            writer.write(b"\x01")
            assert await reader.readexactly(4) == bytes(4)
            writer.write(b"\x01")  # shared
            width = int.from_bytes(await reader.readexactly(2), "big")
            assert width >= 640
            writer.close()
            await ended(relay)

    with subprocess.Popen([*command, "-vnc", f"unix:{path}"], stdin=subprocess.DEVNULL) as qemu:
        try:
            asyncio.run(main())
        finally:
            qemu.kill()
