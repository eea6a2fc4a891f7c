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
from xenopsd.backends.simulator.console.rfb import HEIGHT, WIDTH, RfbError, ServerSession, picture

from .conftest import Play

HELLO = b"RFB 003.008\n" + b"\x01" + b"\x01"
TRUE_COLOUR = struct.pack(">BBBBHHHBBB3x", 32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
FULL_REQUEST = struct.pack(">BBHHHH", 3, 0, 0, 0, WIDTH, HEIGHT)
CHANGE_REQUEST = struct.pack(">BBHHHH", 3, 1, 0, 0, WIDTH, HEIGHT)
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


def test_a_screen_takes_keys_changes_and_ends_with_its_machine(play: Any) -> None:
    async def run() -> None:
        async with play() as it, asyncio.timeout(10):
            vm = await it.a_running_vm()
            reader, writer = await connect(it, vm, ConsoleProtocol.RFB)
            writer.write(HELLO)
            await reader.readuntil(b"simulated vm")
            writer.write(FULL_REQUEST)
            assert (await reader.readexactly(16 + WIDTH * HEIGHT * 4))[16:] == picture(TRUE_COLOUR)
            keys = b"".join(struct.pack(">B?2xI", 4, True, key) for key in (*b"halt", 0xFFE1, 0xFF0D))
            writer.write(CHANGE_REQUEST + keys)
            shown = (await reader.readexactly(16 + WIDTH * HEIGHT * 4))[16:]
            assert shown in [picture(TRUE_COLOUR, turn) for turn in range(1, 8)]
            text, typing = await connect(it, vm, ConsoleProtocol.VT100)
            await text.readuntil(b"Power down")
            typing.close()
            await typing.wait_closed()
            assert await it.backend.vm.get_action(vm) is DomainAction.POWEROFF
            await it.backend.vm.destroy(vm)
            assert await reader.read() == b""
            writer.close()
            await writer.wait_closed()

    asyncio.run(run())


def test_a_change_is_shown_at_once_to_who_waits_and_later_to_who_does_not() -> None:
    session = ServerSession("x")
    session.receive(HELLO + CHANGE_REQUEST)
    session.data_to_send()
    session.move_on()
    assert session.data_to_send()[16:] == picture(TRUE_COLOUR, 1)
    session.move_on()
    session.move_on()
    assert session.data_to_send() == b""
    session.receive(CHANGE_REQUEST)
    assert session.data_to_send()[16:] == picture(TRUE_COLOUR, 3)
    session.receive(CHANGE_REQUEST)
    assert session.data_to_send() == b""


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
        return session.data_to_send() + session.keys_typed(), str(error)
    return session.data_to_send() + session.keys_typed(), ""


def test_a_stranger_is_sent_away() -> None:
    with pytest.raises(RfbError):
        ServerSession("x").receive(b"GET / HTTP/1.1\r\n")
