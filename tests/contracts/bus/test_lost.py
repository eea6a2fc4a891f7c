# SPDX-License-Identifier: Apache-2.0
"""What every bus promises of connections that are lost and made again, as `xenops.bus.port` has it."""

import asyncio

import pytest

from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Delivery, Message
from xenops.errors import ConnectionLost, NoSuchService

from .world import AmqpWorld, World, name, scenario


async def echo(delivery: Delivery) -> Message:
    return Message(delivery.message.body + b"!")


@scenario
async def test_a_repeatable_call_survives_the_loss_of_its_connection(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("repeat")
    arrived, go_on = asyncio.Event(), asyncio.Event()
    ids: list[str | None] = []
    again = asyncio.Event()

    async def answer(delivery: Delivery) -> Message:
        ids.append(delivery.message.message_id)
        arrived.set()
        if len(ids) == 2:
            again.set()
        await go_on.wait()
        return Message(b"done")

    await server.serve(queue, answer)
    call = asyncio.create_task(client.call(queue, Message(b"x", message_id="once-1"), timeout_s=10))
    await arrived.wait()
    await world.cut(client)
    await again.wait()
    go_on.set()
    assert (await call).body == b"done"
    assert ids == ["once-1", "once-1"]


@scenario
async def test_any_other_call_ends_when_its_connection_is_lost(world: World) -> None:
    server, client, queue = await world.bus(), await world.bus(), name("lost")
    arrived = asyncio.Event()

    async def answer(_: Delivery) -> Message:
        arrived.set()
        await asyncio.Event().wait()
        return Message(b"")

    await server.serve(queue, answer)
    call = asyncio.create_task(client.call(queue, Message(b"x"), timeout_s=10))
    await arrived.wait()
    await world.cut(client)
    with pytest.raises(ConnectionLost):
        await call


@scenario
async def test_everything_comes_back_after_the_switch_was_away(world: World) -> None:
    server, client, queue, topic = await world.bus(), await world.bus(), name("away"), name("event")
    gap, event = asyncio.Event(), asyncio.Event()
    await server.serve(queue, echo)
    await client.subscribe([topic], lambda _: event.set(), on_gap=gap.set)
    assert (await client.call(queue, Message(b"1"), timeout_s=5)).body == b"1!"
    await world.stop()
    call = asyncio.create_task(client.call(queue, Message(b"2", message_id="m"), timeout_s=15))
    await server.publish(topic, Message(b"dropped"))
    with pytest.raises((NoSuchService, ConnectionLost)):  # the second if the loss had not been noticed yet
        await client.call(queue, Message(b"x"), timeout_s=0.1)
    await world.start()
    assert (await call).body == b"2!"
    await gap.wait()
    await server.publish(topic, Message(b"again"))
    await event.wait()


@scenario
async def test_services_and_clients_start_before_the_switch(world: World) -> None:
    await world.stop()
    server, client, queue = await world.bus(connected=False), await world.bus(connected=False), name("order")
    await server.serve(queue, echo)
    call = asyncio.create_task(client.call(queue, Message(b"x"), timeout_s=15))
    connecting = [asyncio.create_task(bus.connect(15)) for bus in (server, client)]
    await asyncio.sleep(0)
    await world.start()
    assert (await call).body == b"x!"
    await asyncio.gather(*connecting)


@scenario
async def test_closing_ends_what_is_under_way(world: World) -> None:
    bus, queue = await world.bus(), name("close")
    arrived = asyncio.Event()

    async def answer(_: Delivery) -> Message:
        arrived.set()
        await asyncio.Event().wait()
        return Message(b"")

    await bus.serve(queue, answer)
    client = await world.bus()
    call = asyncio.create_task(client.call(queue, Message(b"x", message_id="m"), timeout_s=10))
    await arrived.wait()
    await client.close()
    with pytest.raises(ConnectionLost):
        await call
    with pytest.raises(ConnectionLost):
        await client.call(queue, Message(b"x"), timeout_s=1)
    await client.close()


def test_replies_that_wait_for_a_connection_are_bounded() -> None:
    bus = AmqpBus("amqp://guest:guest@127.0.0.1:1/%2F")
    for n in range(20):
        bus.reply("somebody", Message(b"%02d" % n * (2 << 20)))
    assert [owed.body[:2] for _, owed in bus._owed] == [b"%02d" % n for n in range(12, 20)]


@scenario
async def test_a_reply_that_the_broker_does_not_carry_costs_no_other_one(amqp_world: AmqpWorld) -> None:
    server, client, queue = await amqp_world.bus(), await amqp_world.bus(), name("refused")
    assert isinstance(server, AmqpBus)
    arrived, go_on = asyncio.Event(), asyncio.Event()
    seen: list[bytes] = []

    async def answer(delivery: Delivery) -> Message:
        seen.append(delivery.message.body)
        arrived.set()
        await go_on.wait()
        return Message(b"done")

    await server.serve(queue, answer)
    call = asyncio.create_task(client.call(queue, Message(b"x"), timeout_s=10))
    await arrived.wait()
    link, out = server._link, server._out
    assert out is not None
    out.channel.basic_publish("no such exchange", "", b"")
    while out.is_open:  # noqa: ASYNC110 (nobody is told)
        await asyncio.sleep(0.01)
    go_on.set()
    assert (await call).body == b"done"
    assert (seen, server._link) == ([b"x"], link)
