# SPDX-License-Identifier: Apache-2.0
"""A console that is a terminal: every byte as it is, no echo, and free again for the next viewer."""

import asyncio
import contextlib
import os
import pty
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
from prometheus_client import CollectorRegistry

from vncproxy.metrics import Metrics
from vncproxy.relay import Relay
from xenops.errors import DoesNotExist
from xenops.types.console import Console, ConsoleProtocol, ConsoleRoute


@asynccontextmanager
async def relaying() -> AsyncIterator[Relay]:
    relay = Relay(Metrics(CollectorRegistry()))
    try:
        yield relay
    finally:
        await relay.close()


async def view(route: ConsoleRoute) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(route.host, route.port)


async def ended(relay: Relay) -> None:
    """All sessions have come to their end by themselves, and long before a silent socket is given up."""
    async with asyncio.timeout(20):
        while relay._sessions:
            await asyncio.wait(relay._sessions)


@contextlib.contextmanager
def terminal() -> Iterator[tuple[int, Console]]:
    """What xenconsoled does for a guest: a terminal, of which it keeps the one end and tells where the other one is."""
    guest, other = pty.openpty()
    path = os.ttyname(other)
    try:
        yield guest, Console(protocol=ConsoleProtocol.VT100, path=path)
    finally:
        for fd in (guest, other):
            with contextlib.suppress(OSError):
                os.close(fd)


def test_a_terminal_is_a_console_that_does_not_echo() -> None:
    everything = bytes(range(256)) * 400

    async def main() -> None:
        with terminal() as (guest, console):
            async with relaying() as relay:
                route = await relay.open("vm", console)
                os.write(guest, b"said before anybody looked\n")
                reader, writer = await view(route)
                assert await reader.readexactly(27) == b"said before anybody looked\n"
                writer.write(everything)
                heard = b""
                while len(heard) < len(everything):  # \x03 is no interrupt, \r no line's end, and nothing is cut
                    heard += await asyncio.to_thread(os.read, guest, 4096)
                assert heard == everything
                await asyncio.to_thread(os.write, guest, everything)
                assert await reader.readexactly(len(everything)) == everything
                writer.write(b"x")
                assert await asyncio.to_thread(os.read, guest, 4096) == b"x"  # and no echo of what the guest said
                writer.close()
                await ended(relay)  # the next viewer has it for itself

    asyncio.run(main())


def test_a_terminal_whose_guest_goes_ends_the_session() -> None:
    async def main() -> None:
        guest, other = pty.openpty()
        console = Console(protocol=ConsoleProtocol.VT100, path=os.ttyname(other))
        async with relaying() as relay:
            reader, writer = await view(await relay.open("vm", console))
            os.close(other)
            os.close(guest)
            assert await reader.read() == b""
            writer.close()
            await ended(relay)

    asyncio.run(main())


def test_a_device_that_is_no_terminal_is_no_console() -> None:
    async def main() -> None:
        async with relaying() as relay:
            with pytest.raises(DoesNotExist):
                await relay.open("vm", Console(protocol=ConsoleProtocol.VT100, path="/dev/null"))

    asyncio.run(main())
