# SPDX-License-Identifier: Apache-2.0
"""Who has gone is forgotten at once, and not when the garbage collector comes by: encrypted, each was 56 KiB."""

import asyncio
import gc
import ssl
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from weakref import WeakSet

import pytest
import uvloop
from pika import spec

from message_switch.access.encryption import server_context
from message_switch.access.users import Users
from message_switch.frames import GREETING
from message_switch.model.broker import Broker
from message_switch.server import Connection, Server
from message_switch.switch import Switch
from tests.message_switch.test_logins import PATIENCE_S, Client, hello, said
from tests.message_switch.test_users import certificate

BUSY = said(
    1,
    spec.Channel.Open(),
    spec.Queue.Declare(0, "own", exclusive=True),
    spec.Basic.Consume(0, "own", "me"),
    spec.Confirm.Select(),
)
GOODBYE = said(0, spec.Connection.Close(200, "", 0, 0))

Leave = Callable[[Client], Awaitable[None]]


@pytest.fixture
def uncollected() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


async def refused(client: Client) -> None:
    client.writer.write(login("wrong") + said(0, spec.Connection.CloseOk()))
    await client.reader.read()


async def says_goodbye(client: Client) -> None:
    client.writer.write(login("secret") + BUSY + GOODBYE)
    await client.reader.read()


async def vanishes(client: Client) -> None:
    client.writer.write(login("secret") + BUSY)
    while (await client.next()).NAME != "Confirm.SelectOk":
        pass
    client.writer.transport.abort()


def login(password: str) -> bytes:
    return hello("own", password).removeprefix(GREETING)


@pytest.mark.usefixtures("uncollected")
@pytest.mark.parametrize("encrypted", [False, True])
@pytest.mark.parametrize("leave", [refused, says_goodbye, vanishes])
def test_nothing_is_left_of_who_has_gone(leave: Leave, encrypted: bool, tmp_path: Path) -> None:
    left: WeakSet[Connection] = WeakSet()

    async def run() -> None:
        server = Server(Switch(Broker(), Users("own", "secret")), version="0")
        if encrypted:
            certificate(tmp_path, "host")
            await server.listen_tls("127.0.0.1", 0, server_context(tmp_path / "host.pem", tmp_path / "host.key", None))
        else:
            await server.listen_tcp("127.0.0.1", 0)
        trusting = ssl.create_default_context(cafile=str(tmp_path / "host.pem")) if encrypted else None
        port = server.tls_port if encrypted else server.port
        try:
            async with asyncio.timeout(PATIENCE_S):
                for _ in range(3):
                    client = Client(*await asyncio.open_connection("127.0.0.1", port, ssl=trusting))
                    client.writer.write(GREETING)
                    assert (await client.next()).NAME == "Connection.Start"
                    assert server.connections
                    left.update(server.connections)
                    await leave(client)
                    client.writer.close()
        finally:
            await server.close()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run())
    assert len(left) == 0
