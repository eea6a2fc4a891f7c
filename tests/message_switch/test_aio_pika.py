# SPDX-License-Identifier: Apache-2.0
"""aio-pika, unmodified, speaks to the switch and to RabbitMQ alike."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from typing import Any

import aio_pika
import pytest
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage
from aio_pika.exceptions import ChannelNotFoundEntity, DeliveryError

from tests.message_switch.asking import REPLY_TO, silence

Story = Callable[[str, AbstractChannel], Coroutine[Any, Any, None]]
PATIENCE_S = 40


def told(story: Story) -> Callable[[str], None]:
    """A test of one connection with one channel, whose messages are confirmed."""

    @functools.wraps(story)
    def test(url: str) -> None:
        async def whole() -> None:
            async with asyncio.timeout(PATIENCE_S), await aio_pika.connect(url, heartbeat=1) as connection:
                channel = await connection.channel(publisher_confirms=True, on_return_raises=True)
                await story(url, channel)

        asyncio.run(whole())

    del test.__wrapped__  # type: ignore[attr-defined]  # pytest would ask for the story's arguments
    return test


@told
async def test_publish_with_confirms_and_take(url: str, channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("aio-kept", durable=True, auto_delete=True, arguments={"x-max-priority": 3})
    exchange = await channel.declare_exchange("aio-topic", ExchangeType.TOPIC, auto_delete=True)
    await queue.bind(exchange, "host.#")
    message = Message(b"body", headers={"n": 1}, delivery_mode=DeliveryMode.PERSISTENT, message_id="m", priority=2)
    await exchange.publish(message, "host.vm.1")
    got = await queue.get(timeout=10)
    assert (got.body, got.headers, got.message_id, got.routing_key) == (b"body", {"n": 1}, "m", "host.vm.1")
    await got.ack()
    await queue.unbind(exchange, "host.#")
    await queue.delete()


@told
async def test_what_nobody_is_there_for_comes_back(url: str, channel: AbstractChannel) -> None:
    with pytest.raises(DeliveryError) as returned:
        await channel.default_exchange.publish(Message(b"lost"), "aio-nobody", mandatory=True)
    assert returned.value.message.delivery.reply_code == 312


@told
async def test_a_full_queue_refuses(url: str, channel: AbstractChannel) -> None:
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = await channel.declare_queue("", exclusive=True, arguments=limits)
    await channel.default_exchange.publish(Message(b"1"), queue.name)
    with pytest.raises(DeliveryError):
        await channel.default_exchange.publish(Message(b"2"), queue.name)


@told
async def test_consume_and_give_back(url: str, channel: AbstractChannel) -> None:
    await channel.set_qos(prefetch_count=1)
    queue = await channel.declare_queue("", exclusive=True)
    for body in (b"a", b"b"):
        await channel.default_exchange.publish(Message(body), queue.name)
    seen: list[tuple[bytes, bool | None]] = []
    async with queue.iterator() as messages:
        async for message in messages:
            seen.append((message.body, message.redelivered))
            await (message.nack(requeue=True) if len(seen) == 1 else message.ack())
            if len(seen) == 3:
                break
    assert seen == [(b"a", False), (b"a", True), (b"b", False)]


@told
async def test_a_call_with_direct_reply_to(url: str, channel: AbstractChannel) -> None:
    requests = await channel.declare_queue("", exclusive=True)
    replies: asyncio.Queue[AbstractIncomingMessage] = asyncio.Queue()

    async def serve(message: AbstractIncomingMessage) -> None:
        async with message.process():
            assert message.reply_to is not None
            answer = Message(message.body + b"!", correlation_id=message.correlation_id)
            await channel.default_exchange.publish(answer, message.reply_to)

    await requests.consume(serve)
    await (await channel.get_queue(REPLY_TO, ensure=False)).consume(replies.put, no_ack=True)
    await channel.default_exchange.publish(Message(b"x", reply_to=REPLY_TO, correlation_id="7"), requests.name)
    reply = await replies.get()
    assert (reply.body, reply.correlation_id) == (b"x!", "7")


async def replies_to_nothing(message: AbstractIncomingMessage) -> None:
    """Nothing comes."""


@told
async def test_a_consumer_is_told_when_its_queue_goes(url: str, channel: AbstractChannel) -> None:
    queue = await channel.declare_queue("aio-goes", durable=True)
    gone: asyncio.Queue[str | None] = asyncio.Queue()
    underlay = await channel.get_underlay_channel()
    underlay.on_consumer_cancel_callbacks.add(lambda frame: gone.put_nowait(frame.consumer_tag))
    tag = await queue.consume(replies_to_nothing)
    await channel.queue_delete("aio-goes")
    assert await gone.get() == tag
    with pytest.raises(ChannelNotFoundEntity):
        await channel.get_queue("aio-goes")


@told
async def test_heartbeats_keep_an_idle_connection(url: str, channel: AbstractChannel) -> None:
    await asyncio.to_thread(silence, url)  # who is silent for as long as we were idle has been hung up on
    assert (await channel.declare_queue("", exclusive=True)).name.startswith("amq.gen-")
