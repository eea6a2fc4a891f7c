# SPDX-License-Identifier: Apache-2.0
"""Who sets the time of day drops nobody's connection and no message before its time."""

import asyncio
import time

import pytest
from pika import frame, spec

from message_switch.access.users import Users
from message_switch.frames import GREETING
from message_switch.model.broker import Broker
from message_switch.server import Server
from message_switch.switch import Switch


def said(number: int, *methods: object) -> bytes:
    return b"".join(frame.Method(number, method).marshal() for method in methods)


HELLO = GREETING + said(
    0,
    spec.Connection.StartOk({}, "PLAIN", "\0own\0secret"),
    spec.Connection.TuneOk(10, 4096, 30),
    spec.Connection.Open("/"),
)
EXPIRING = {"x-expires": 600_000, "x-message-ttl": 600_000}


@pytest.mark.parametrize("jump_s", [3600.0, -3600.0])
def test_the_time_of_day_jumps(jump_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    plainly = time.time

    async def run() -> None:
        server = Server(Switch(Broker(), Users("own", "secret")), version="0")
        await server.listen_tcp("127.0.0.1", 0)
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)

        async def hear(name: str) -> None:
            head = await reader.readexactly(7)
            method = frame.decode_frame(head + await reader.readexactly(int.from_bytes(head[3:], "big") + 1))[1].method
            assert name == method.NAME

        writer.write(HELLO + said(1, spec.Channel.Open(), spec.Queue.Declare(0, "q", durable=True, arguments=EXPIRING)))
        for name in ("Connection.Start", "Connection.Tune", "Connection.OpenOk", "Channel.OpenOk", "Queue.DeclareOk"):
            await hear(name)
        monkeypatch.setattr(time, "time", lambda: plainly() + jump_s)
        server._tick()
        server._sweep()
        writer.write(said(1, spec.Queue.Declare(0, "q", passive=True)))
        await hear("Queue.DeclareOk")
        server._tick()
        server._sweep()
        assert (len(server.connections), list(server.switch.broker.queues)) == (1, ["q"])
        writer.close()
        await server.close()

    asyncio.run(asyncio.wait_for(run(), 20))
