# SPDX-License-Identifier: Apache-2.0
"""A broker that is killed and started again, and services that are: nothing hangs, nothing has to be started anew."""

import asyncio

from tests.brokers import Broker
from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Delivery, Message

from .world import name


def test_a_broker_killed_in_the_middle_of_a_call(own_broker: Broker) -> None:
    async def whole() -> None:
        server, client, queue, topic = AmqpBus(own_broker.url), AmqpBus(own_broker.url), name("killed"), name("topic")
        arrived, event, gap = asyncio.Event(), asyncio.Event(), asyncio.Event()
        ids: list[str | None] = []

        async def answer(delivery: Delivery) -> Message:
            ids.append(delivery.message.message_id)
            arrived.set()
            if len(ids) == 1:
                await asyncio.Event().wait()
            return Message(b"after the restart")

        await server.serve(queue, answer)
        await client.subscribe([topic], lambda _: event.set(), on_gap=gap.set)
        await server.connect(10)
        await client.connect(10)
        call = asyncio.create_task(client.call(queue, Message(b"x", message_id="m-1"), timeout_s=40))
        await arrived.wait()
        own_broker.kill()
        await asyncio.to_thread(own_broker.start)
        assert (await call).body == b"after the restart"
        assert set(ids) == {"m-1"}
        await gap.wait()
        await server.connect(20)
        await server.publish(topic, Message(b""))
        await event.wait()
        await client.close()
        await server.close()

    async def bounded() -> None:
        async with asyncio.timeout(55):
            await whole()

    asyncio.run(bounded())
