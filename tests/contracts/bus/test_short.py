# SPDX-License-Identifier: Apache-2.0
"""A broker short of memory or disk takes nothing for a while: callers are told so, and afterwards nothing is missing.

RabbitMQ is set off by its operator. The switch finds that its disk takes no more, as `tests/message_switch/test_pressure` has it.
"""

import asyncio
import resource
import threading
from collections import Counter
from contextlib import suppress

import pytest
from amqp import Connection
from amqp import Message as Content

from tests.brokers import Broker, rabbitmqctl
from xenops.bus.amqp import AmqpBus
from xenops.bus.blocking import BlockingBus
from xenops.bus.port import Delivery, Message
from xenops.errors import Busy, TimedOut

from .world import name

HEARTBEAT_S = 1
SILENCE_S = 3.5  # longer than any side waits for the other to show that it lives


def shorten(broker: Broker) -> None:
    """It runs out of what it needs."""
    if not is_switch(broker):
        rabbitmqctl(broker, "set_vm_memory_high_watermark", "0")
        return
    assert broker.process is not None
    _, hard = resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (20_000, hard))
    flood = Connection(f"127.0.0.1:{broker.port}", userid="guest", password="guest")
    flood.connect()
    channel = flood.channel()
    channel.queue_declare("flooded", durable=True, auto_delete=False)
    for _ in range(40):
        channel.basic_publish(Content(b"x" * 1000, delivery_mode=2), routing_key="flooded")
    flood.collect()  # a goodbye would not be read


def relieve(broker: Broker) -> None:
    """It has all that it needs again."""
    if not is_switch(broker):
        rabbitmqctl(broker, "set_vm_memory_high_watermark", "0.4")
        return
    assert broker.process is not None
    _, hard = resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(broker.process.pid, resource.RLIMIT_FSIZE, (hard, hard))


def is_switch(broker: Broker) -> bool:
    return "RABBITMQ_NODENAME" not in broker.environ


def test_callers_are_told_and_nothing_is_missing_afterwards(own_broker: Broker) -> None:
    async def whole() -> None:
        url, queue = f"{own_broker.url}?heartbeat={HEARTBEAT_S}", name("short")
        server, client = AmqpBus(url), AmqpBus(url)
        begun, go_on = asyncio.Event(), asyncio.Event()
        served: Counter[str | None] = Counter()

        async def answer(delivery: Delivery) -> Message:
            served[delivery.message.message_id] += 1
            if delivery.message.body == b"long":
                begun.set()
                await go_on.wait()
            return Message(delivery.message.body)

        def ask(body: bytes, id: str, timeout_s: float = 40.0) -> asyncio.Task[Message]:
            return asyncio.create_task(client.call(queue, Message(body, message_id=id), timeout_s=timeout_s))

        await server.serve(queue, answer)
        await server.connect(20)
        await client.connect(20)
        connections = server._link, client._link
        await ask(b"x", "first")
        accepted = ask(b"long", "accepted")
        await begun.wait()
        await asyncio.to_thread(shorten, own_broker)
        waiting: list[asyncio.Task[Message]] = []
        while client._link is not None and not client._link.short:  # RabbitMQ blocks who publishes, after that message
            waiting.append(ask(b"x", f"late-{len(waiting)}"))
            await asyncio.sleep(0.05)
        waiting += [ask(b"x", f"waits-{n}") for n in range(3)]
        with pytest.raises(Busy, match=r"the switch \(low on (memory|disk)\)"):
            await ask(b"x", "impatient", SILENCE_S)
        go_on.set()  # the server goes on with what it has
        assert not set(served) & {"waits-0", "waits-1", "waits-2"}
        await asyncio.to_thread(relieve, own_broker)
        assert (await accepted).body == b"long"
        assert {reply.body for reply in await asyncio.gather(*waiting)} == {b"x"}
        assert set(served.values()) == {1}, "a request ran twice"
        assert len(served) == 2 + len(waiting)
        assert "impatient" not in served, "it waited in the connection, and was done after its caller had left"
        assert (server._link, client._link) == connections, "no heartbeat was missed"
        await client.close()
        await server.close()

    async def bounded() -> None:
        async with asyncio.timeout(50):
            await whole()

    asyncio.run(bounded())


def until_it_is_told(bus: BlockingBus, queue: str) -> None:
    with suppress(Busy):
        while True:
            bus.call(queue, Message(b"x"), timeout_s=1)


def test_a_script_is_told_and_nothing_runs_after_it_has_given_up(
    own_broker: Broker, caplog: pytest.LogCaptureFixture
) -> None:
    served: list[str | None] = []
    queue = name("short")

    async def answer(delivery: Delivery) -> Message:
        served.append(delivery.message.message_id)
        return Message(delivery.message.body)

    def steps() -> None:
        with BlockingBus(own_broker.url) as bus:
            bus.call(queue, Message(b"x", message_id="first"), timeout_s=20)
            shorten(own_broker)
            if is_switch(own_broker):
                until_it_is_told(bus, queue)
                with pytest.raises(Busy, match="low on memory or disk"):
                    bus.call(queue, Message(b"x", message_id="impatient"), timeout_s=1)
            else:  # which blocks who publishes, and says so after that message: whether it will be read is not known
                with pytest.raises(TimedOut):
                    bus.call(queue, Message(b"x"), timeout_s=1)
            relief = threading.Timer(0.5, relieve, [own_broker])
            relief.start()
            bus.call(queue, Message(b"x", message_id="patient"), timeout_s=20)
            relief.join()

    async def whole() -> None:
        async with asyncio.timeout(50):
            server = AmqpBus(own_broker.url)
            await server.connect(20)
            await server.serve(queue, answer)
            await asyncio.to_thread(steps)
            await server.close()

    asyncio.run(whole())
    assert served[0] == "first"
    assert "patient" in served
    assert "impatient" not in served
    assert "the switch takes no requests: it is low on memory or disk" in caplog.text
