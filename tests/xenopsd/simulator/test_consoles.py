# SPDX-License-Identifier: Apache-2.0
"""The consoles are real sockets with something to see."""

import asyncio
import itertools
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.events import Kind
from xenops.types.console import ConsoleProtocol
from xenopsd.backends.port import DomainAction
from xenopsd.backends.simulator import Options, Simulator
from xenopsd.backends.simulator.console.rfb import HEIGHT, WIDTH, RfbError, ServerSession

from .conftest import Play

HELLO = b"RFB 003.008\n" + b"\x01" + b"\x01"
FULL_REQUEST = struct.pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
SIXTEEN_BITS = b"\0\0\0\0" + struct.pack(">BBBBHHHBBB3x", 16, 16, 0, 1, 31, 63, 31, 11, 5, 0)


async def connect(it: Any, vm: Any, protocol: ConsoleProtocol) -> Any:
    path = next(console.path for console in (await it.state(vm)).consoles if console.protocol is protocol)
    return await asyncio.open_unix_connection(path)


def test_a_terminal_shows_the_boot_and_answers(play: Any) -> None:
    async def run() -> None:
        async with play() as it, asyncio.timeout(10):
            vm = await it.a_running_vm()
            reader, writer = await connect(it, vm, ConsoleProtocol.VT100)
            assert b"booting vm" in await reader.readuntil(b"login: ")
            await it.backend.debug("print", [vm.id, "hello there"])
            await reader.readuntil(b"hello there\r\n")
            writer.write(b"what\r")
            await reader.readuntil(b"what\r\nwhat\r\n# ")
            writer.write(b"reboot\r")
            await reader.readuntil(b"Restarting system")
            assert await it.backend.vm.get_action(vm) is DomainAction.REBOOT
            assert it.told == [(Kind.VM, vm.id)]
            await it.backend.vm.destroy(vm)
            assert await reader.read() == b"\r\n", "the console ends with its domain"
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


def test_a_terminal_is_found_again_after_a_restart(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            before = (await it.state(vm)).consoles
        assert not any(Path(console.path).exists() for console in before)
        async with play() as it, asyncio.timeout(10):
            assert (await it.state(vm)).consoles == before
            reader, writer = await connect(it, vm, ConsoleProtocol.VT100)
            await reader.readuntil(b"login: ")
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


def test_the_picture_is_there_while_there_is_a_device_model(play: Any) -> None:
    async def run() -> None:
        async with play() as it, asyncio.timeout(10):
            vm = await it.a_running_vm()
            reader, writer = await connect(it, vm, ConsoleProtocol.RFB)
            writer.write(HELLO)
            await reader.readexactly(12 + 2 + 4)
            assert struct.unpack(">HH", await reader.readexactly(4)) == (WIDTH, HEIGHT)
            await reader.readexactly(16)
            name = await reader.readexactly(struct.unpack(">I", await reader.readexactly(4))[0])
            assert name == b"simulated vm"
            writer.write(SIXTEEN_BITS + FULL_REQUEST)
            await reader.readexactly(16 + WIDTH * HEIGHT * 2)
            writer.close()
            await writer.wait_closed()
            await it.backend.vm.destroy_device_model(vm)
            assert [console.protocol for console in (await it.state(vm)).consoles] == [ConsoleProtocol.VT100]

    asyncio.run(run())


def test_a_folder_too_deep_for_a_socket_does_not_matter(tmp_path: Path) -> None:
    async def run() -> None:
        backend = Simulator(tmp_path / ("x" * 100), Options())
        await backend.start(lambda kind, id: None)
        vm = await Play(backend, []).a_running_vm()
        paths = [Path(console.path) for console in (await backend.vm.states([vm]))[0].consoles]
        assert len(paths) == 2
        assert all(path.is_socket() and path.parent.stat().st_mode & 0o077 == 0 for path in paths)
        await backend.stop()
        assert not paths[0].parent.exists()

    asyncio.run(run())


@given(st.binary(max_size=300), st.lists(st.integers(0, 400)), st.booleans())
def test_any_split_of_rfb_is_the_same_conversation(tail: bytes, cuts: list[int], greeted: bool) -> None:
    data = (HELLO + SIXTEEN_BITS if greeted else b"") + tail
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    assert _said(data, [0, len(data)]) == _said(data, edges)


def _said(data: bytes, edges: list[int]) -> tuple[bytes, str]:
    session = ServerSession("x")
    try:
        for start, end in itertools.pairwise(edges):
            session.receive(data[start:end])
    except RfbError as error:
        return session.data_to_send(), str(error)
    return session.data_to_send(), ""


def test_a_stranger_is_sent_away() -> None:
    with pytest.raises(RfbError):
        ServerSession("x").receive(b"GET / HTTP/1.1\r\n")
