# SPDX-License-Identifier: Apache-2.0
"""The promises of the `Admin` port, kept by the switch and by RabbitMQ's management plugin alike."""

import asyncio
import secrets
from argparse import Namespace
from collections.abc import Callable, Iterator

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from message_cli.session import connected
from xenops.interfaces.switch import QueueStat

from .conftest import Place
from .test_brokers import until

pytestmark = pytest.mark.timeout(300)
Look = Callable[[str], list[QueueStat]]


@pytest.fixture
def look(place: Place) -> Look:
    """Ask the broker as the commands do."""

    async def ask(prefix: str) -> list[QueueStat]:
        async with connected(Namespace(url=place.url, management=place.management)) as session:
            return await session.admin.queues(prefix)

    return lambda prefix: asyncio.run(ask(prefix))


@pytest.fixture
def channel(place: Place) -> Iterator[BlockingChannel]:
    """A foreign client."""
    with pika.BlockingConnection(pika.URLParameters(place.url)) as connection:
        yield connection.channel()


@pytest.fixture
def prefix() -> str:
    """Names that nobody else has."""
    return f"t.{secrets.token_hex(4)}."


def test_queues_come_by_prefix_and_by_name(look: Look, channel: BlockingChannel, prefix: str) -> None:
    for name in ("b", "a", "ä/%"):
        channel.queue_declare(prefix + name, durable=True)
    channel.queue_declare(f"x{prefix}", exclusive=True)
    found = until(lambda: len(rows := look(prefix)) == 3 and rows)
    assert [queue.name for queue in found] == [prefix + name for name in ("a", "b", "ä/%")]
    assert all(queue.durable and not queue.exclusive for queue in look(prefix))
    (own,) = until(lambda: look(f"x{prefix}"))
    assert own.exclusive
    assert not own.durable
    for name in ("b", "a", "ä/%"):
        channel.queue_delete(prefix + name)
    assert until(lambda: not look(prefix))


def test_what_waits_what_is_held_and_what_is_settled_are_told_apart(
    look: Look, channel: BlockingChannel, prefix: str
) -> None:
    channel.queue_declare(prefix, durable=True)
    for _ in range(3):
        channel.basic_publish("", prefix, b"x")

    def figures(ready: int, unacked: int, consumers: int) -> QueueStat:
        def agrees() -> QueueStat | None:
            (queue,) = look(prefix)
            return queue if (queue.ready, queue.unacked, queue.consumers) == (ready, unacked, consumers) else None

        found: QueueStat = until(agrees)
        return found

    assert not figures(3, 0, 0).served
    taken: list[int] = []
    channel.basic_qos(prefetch_count=1)
    tag = channel.basic_consume(prefix, lambda _, method, *__: taken.append(method.delivery_tag))
    until(lambda: (channel.connection.process_data_events(time_limit=0.1), taken)[1])
    assert figures(2, 1, 1).served
    channel.basic_cancel(tag)
    channel.basic_ack(taken[0])
    figures(2, 0, 0)
    channel.queue_delete(prefix)


def test_a_look_changes_nothing(look: Look, channel: BlockingChannel, prefix: str) -> None:
    channel.queue_declare(prefix, durable=True)
    channel.basic_publish("", prefix, b"x")
    until(lambda: [queue.ready for queue in look(prefix)] == [1])
    look(prefix)
    method, _, _ = channel.basic_get(prefix, auto_ack=True)
    assert method is not None
    assert not method.redelivered
    channel.queue_delete(prefix)
