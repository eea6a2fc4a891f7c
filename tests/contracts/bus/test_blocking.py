# SPDX-License-Identifier: Apache-2.0
"""The blocking bus of scripts, against every broker."""

import asyncio
from collections.abc import Callable
from typing import TypeVar

import pytest

from xenops.bus.blocking import BlockingBus
from xenops.bus.port import MAX_BODY, Delivery, Message
from xenops.errors import BadRequest, Busy, ConnectionLost, NoSuchService, TimedOut

from .world import AmqpWorld, name, scenario

T = TypeVar("T")


async def echo(delivery: Delivery) -> Message:
    return Message(delivery.message.body + b"!")


async def script(url: str, steps: Callable[[BlockingBus], T]) -> T:
    """Run a script in a thread of its own."""

    def run() -> T:
        with BlockingBus(url) as bus:
            return steps(bus)

    return await asyncio.to_thread(run)


@scenario
async def test_calls_are_answered(amqp_world: AmqpWorld) -> None:
    queue = name("echo")
    await (await amqp_world.bus()).serve(queue, echo)

    def steps(bus: BlockingBus) -> list[bytes]:
        bodies = [b"1", b"", b"\xff" * 1_000_000]
        return [bus.call(queue, Message(body), timeout_s=10).body for body in bodies]

    assert await script(amqp_world.url, steps) == [b"1!", b"!", b"\xff" * 1_000_000 + b"!"]


@scenario
async def test_a_request_that_no_broker_carries_is_refused(amqp_world: AmqpWorld) -> None:
    def steps(bus: BlockingBus) -> None:
        with pytest.raises(BadRequest):
            bus.call("anybody", Message(b"x" * (MAX_BODY + 1), message_id="m"), timeout_s=5)

    await script(amqp_world.url, steps)


@scenario
async def test_a_call_waits_for_its_server_to_start(amqp_world: AmqpWorld) -> None:
    queue = name("late")
    call = asyncio.create_task(script(amqp_world.url, lambda bus: bus.call(queue, Message(b"x"), timeout_s=10)))
    await (await amqp_world.bus()).serve(queue, echo)
    assert (await call).body == b"x!"


@scenario
async def test_faults_are_named(amqp_world: AmqpWorld) -> None:
    full, server = name("full"), await amqp_world.bus()

    async def hang(_: Delivery) -> Message | None:
        await asyncio.Event().wait()
        return None

    await server.serve(full, hang, prefetch=1, limit=1)

    def steps(bus: BlockingBus) -> None:
        with pytest.raises(NoSuchService):
            bus.call(name("nobody"), Message(b"x"), timeout_s=2.0)
        for _ in range(2):  # one in hand, one waiting
            with pytest.raises(TimedOut):
                bus.call(full, Message(b"x"), timeout_s=0.3)
        with pytest.raises(Busy):
            bus.call(full, Message(b"x"), timeout_s=5)

    await script(amqp_world.url, steps)


def test_nobody_listening_there_is_a_named_fault_without_the_password() -> None:
    bus = BlockingBus("amqp://user:secret@127.0.0.1:1/%2F")
    with pytest.raises(NoSuchService) as caught:
        bus.call("xenops.h.i", Message(b"x"), timeout_s=0.3)
    assert "secret" not in str(caught.value)
    bus.close()


@scenario
async def test_events_come_in_order(amqp_world: AmqpWorld) -> None:
    topic, queue, publisher = name("topic"), name("start"), await amqp_world.bus()

    async def answer(_: Delivery) -> Message:
        for body in (b"1", b"2", b"3"):
            await publisher.publish(topic, Message(body))
        return Message(b"")

    await publisher.serve(queue, answer)

    def steps(bus: BlockingBus) -> list[bytes]:
        events = bus.events([topic], 0.5)
        bus.call(queue, Message(b""), timeout_s=5)
        return [event.body for event in events]

    assert await script(amqp_world.url, steps) == [b"1", b"2", b"3"]


@scenario
async def test_a_lost_connection_is_made_again(amqp_world: AmqpWorld) -> None:
    queue, topic, server, proxy = name("lost"), name("topic"), await amqp_world.bus(), await amqp_world.proxy()
    gap, count = asyncio.Event(), 0

    async def answer(delivery: Delivery) -> Message:
        nonlocal count
        count += 1
        if count == 1 or delivery.message.message_id is None:
            proxy.cut()
            await asyncio.Event().wait()
        return Message(b"%d" % count)

    await server.serve(queue, answer)
    loop = asyncio.get_running_loop()

    def on_gap() -> None:
        loop.call_soon_threadsafe(gap.set)

    def steps(bus: BlockingBus) -> tuple[bytes, bytes]:
        reply = bus.call(queue, Message(b"x", message_id="m"), timeout_s=10).body
        events = bus.events([topic], 10.0, on_gap=on_gap)
        with pytest.raises(ConnectionLost):
            bus.call(queue, Message(b"x"), timeout_s=10)
        return reply, next(events).body

    running = asyncio.create_task(script(f"amqp://guest:guest@127.0.0.1:{proxy.port}/%2F", steps))
    await gap.wait()
    await server.publish(topic, Message(b"after"))
    assert await running == (b"2", b"after")
    await proxy.finish()
