# SPDX-License-Identifier: Apache-2.0
"""Whether a queue is full is asked of a new channel, since an old one may be wrong; of one new channel, not of many."""

import asyncio

import pytest

from xenops.bus.amqp import AmqpBus
from xenops.bus.blocking import BlockingBus
from xenops.bus.link import Lane, Link
from xenops.bus.port import Delivery, Message
from xenops.errors import Busy

from .world import AmqpWorld, name, scenario


class Full:
    """A queue with room for one request, its server, and what a client of it opens."""

    def __init__(self, world: AmqpWorld) -> None:
        self.world, self.queue = world, name("full")
        self.arrived, self.go_on = asyncio.Event(), asyncio.Event()
        self.served: list[bytes] = []
        self.opened: list[Lane] = []
        self.room = False  # before the next channel is asked
        self.waiting: list[asyncio.Task[Message]] = []

    async def client(self) -> AmqpBus:
        """Whose requests fill the queue."""
        await (await self.world.bus()).serve(self.queue, self._answer, prefetch=1, limit=1)
        client = await self.world.bus()
        assert isinstance(client, AmqpBus)
        self.waiting = [self.ask(client, b"in hand")]
        await self.arrived.wait()
        self.waiting.append(self.ask(client, b"waits"))
        await asyncio.sleep(0)
        opens = client._open_requests

        async def opening(link: Link) -> Lane:
            if self.room:
                self.go_on.set()
                await asyncio.gather(*self.waiting)
            self.opened.append(await opens(link))
            return self.opened[-1]

        pytest.MonkeyPatch().setattr(client, "_open_requests", opening)
        return client

    def ask(self, client: AmqpBus, body: bytes) -> asyncio.Task[Message]:
        """A request under way, which may be repeated."""
        request = Message(body, message_id=body.decode())
        return asyncio.create_task(client.call(self.queue, request, timeout_s=10))

    async def _answer(self, delivery: Delivery) -> Message:
        self.served.append(delivery.message.body)
        self.arrived.set()
        await self.go_on.wait()
        return Message(delivery.message.body)


@scenario
async def test_a_full_queue_costs_one_new_channel_for_a_while(amqp_world: AmqpWorld) -> None:
    full = Full(amqp_world)
    client = await full.client()
    kept = client._lane
    refused = await asyncio.gather(*(full.ask(client, b"%d" % n) for n in range(20)), return_exceptions=True)
    assert all(isinstance(fault, Busy) and fault.what == full.queue for fault in refused)
    for n in range(20):
        with pytest.raises(Busy):
            await full.ask(client, b"%d" % n)
    [asked] = full.opened
    assert not asked.is_open
    assert client._lane is kept
    client._believed_until = 0.0  # the while is over
    with pytest.raises(Busy):
        await full.ask(client, b"later")
    assert len(full.opened) == 2
    full.go_on.set()
    await asyncio.gather(*full.waiting)
    assert full.served == [b"in hand", b"waits"]


@scenario
async def test_what_a_new_channel_takes_was_refused_in_error(amqp_world: AmqpWorld) -> None:
    full = Full(amqp_world)
    client = await full.client()
    before, other = client._lane, name("other")
    begun, end = asyncio.Event(), asyncio.Event()

    async def slow(delivery: Delivery) -> Message:
        begun.set()
        await end.wait()
        return Message(b"done")

    await (await amqp_world.bus()).serve(other, slow)
    elsewhere = asyncio.create_task(client.call(other, Message(b"x", message_id="x"), timeout_s=10))
    await begun.wait()
    full.room = True
    first, *rest = await asyncio.gather(*(full.ask(client, b"%d" % n) for n in range(3)), return_exceptions=True)
    assert isinstance(first, Message)
    assert first.body == b"0"
    assert all(isinstance(answer, Message | Busy) for answer in rest)  # there is room for one at a time
    assert [client._lane] == full.opened
    assert before is not None
    assert not before.is_open
    end.set()
    assert (await elsewhere).body == b"done", "a call that was under way has its reply"
    full.room = False
    assert (await full.ask(client, b"next")).body == b"next"


@scenario
async def test_a_script_asks_a_new_connection_once(amqp_world: AmqpWorld) -> None:
    full = Full(amqp_world)
    await full.client()

    def script() -> None:
        with BlockingBus(amqp_world.url) as bus:
            used = []
            for since in (None, 0.0, None):
                if since is not None:
                    bus._channel_since = since  # the channel is old
                with pytest.raises(Busy):
                    bus.call(full.queue, Message(b"x", message_id="x"), timeout_s=10)
                used.append(bus._connection)
            assert used[0] is not used[1] is used[2]

    await asyncio.to_thread(script)
    full.go_on.set()
    await asyncio.gather(*full.waiting)
