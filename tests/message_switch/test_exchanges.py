# SPDX-License-Identifier: Apache-2.0
"""From an exchange to the queues, as an unmodified client sees it; the same tests hold for RabbitMQ."""

import uuid
from collections.abc import Callable, Iterator

import pytest
from pika import exceptions
from pika.adapters.blocking_connection import BlockingChannel

from tests.message_switch.asking import Connect, Durable, fetch

Exchanges = Callable[..., str]


@pytest.mark.parametrize(
    ("kind", "binding", "fits", "fits_not"),
    [
        ("direct", "a.b", "a.b", "a.c"),
        ("topic", "a.*.c.#", "a.b.c", "a.b.b.c"),
        ("topic", "#", "anything.at.all", None),
        ("fanout", "ignored", "anything", None),
    ],
)
def test_exchanges(channel: BlockingChannel, kind: str, binding: str, fits: str, fits_not: str | None) -> None:
    exchange = f"test-{uuid.uuid4().hex}"
    channel.exchange_declare(exchange, kind, auto_delete=True)
    channel.exchange_declare(exchange, passive=True)
    queue = channel.queue_declare("", exclusive=True).method.queue
    channel.queue_bind(queue, exchange, binding)
    channel.queue_bind(queue, exchange, binding)
    if fits_not is not None:
        channel.basic_publish(exchange, fits_not, b"no")
    channel.basic_publish(exchange, fits, b"yes")
    method, _, body = fetch(channel, queue)
    assert (method.exchange, method.routing_key, body) == (exchange, fits, b"yes")
    assert channel.basic_get(queue) == (None, None, None)
    channel.queue_unbind(queue, exchange, binding)
    with pytest.raises(exceptions.ChannelClosedByBroker) as gone:
        channel.exchange_declare(exchange, passive=True)
    assert gone.value.reply_code == 404


@pytest.fixture
def exchange(connect: Connect) -> Iterator[Exchanges]:
    """Declares durable exchanges with names of their own; they are deleted afterwards."""
    connection, names = connect(), []

    def declare(kind: str, **arguments: object) -> str:
        names.append(f"test-{uuid.uuid4().hex}")
        with connection.channel() as channel:
            wanted = {key.replace("_", "-"): value for key, value in arguments.items()}
            channel.exchange_declare(names[-1], kind, durable=True, arguments=wanted)
        return names[-1]

    yield declare
    with connection.channel() as channel:
        for name in names:
            channel.exchange_delete(name)


def test_exchanges_bound_to_each_other(channel: BlockingChannel, durable: Durable, exchange: Exchanges) -> None:
    """A message comes once to each queue, whatever ways lead there, round in a circle too."""
    first, second, queue, other = exchange("topic"), exchange("direct"), durable(), durable()
    channel.exchange_bind(second, first, "a.#")
    channel.exchange_bind(first, second, "a.b")
    channel.queue_bind(queue, second, "a.b")
    channel.queue_bind(queue, first, "a.*")
    channel.queue_bind(other, second, "b")
    channel.confirm_delivery()
    channel.basic_publish(first, "a.b", b"once", mandatory=True)
    method, _, body = fetch(channel, queue)
    assert (method.exchange, method.routing_key, body) == (first, "a.b", b"once")
    assert channel.basic_get(queue)[0] is None
    with pytest.raises(exceptions.UnroutableError):
        channel.basic_publish(first, "b", b"fits not", mandatory=True)
    channel.exchange_unbind(second, first, "a.#")
    channel.exchange_unbind(second, first, "never bound")
    channel.queue_unbind(queue, first, "a.*")
    with pytest.raises(exceptions.UnroutableError):
        channel.basic_publish(first, "a.b", b"no more", mandatory=True)


def test_an_exchange_that_goes_takes_along_what_was_bound_to_it(
    channel: BlockingChannel, durable: Durable, exchange: Exchanges
) -> None:
    last, queue, passing = exchange("fanout"), durable(), f"test-{uuid.uuid4().hex}"
    channel.exchange_declare(passing, "fanout", durable=True, auto_delete=True)
    channel.exchange_bind(last, passing)
    channel.queue_bind(queue, last)
    channel.exchange_delete(last)
    with pytest.raises(exceptions.ChannelClosedByBroker) as gone:
        channel.exchange_declare(passing, passive=True)
    assert gone.value.reply_code == 404


def test_alternate_exchanges(channel: BlockingChannel, durable: Durable, exchange: Exchanges) -> None:
    """Who is bound nowhere else gets what nobody is bound for; where nobody is there either, it comes back."""
    rest, lost, asked = exchange("fanout"), durable(), durable()
    first = exchange("direct", alternate_exchange=rest)
    channel.queue_bind(lost, rest)
    channel.queue_bind(asked, first, "key")
    channel.confirm_delivery()
    channel.basic_publish(first, "key", b"asked for", mandatory=True)
    channel.basic_publish(first, "another", b"lost", mandatory=True)
    assert fetch(channel, asked)[2] == b"asked for"
    method, _, body = fetch(channel, lost)
    assert (method.exchange, method.routing_key, body) == (first, "another", b"lost")
    assert channel.basic_get(lost)[0] is None
    channel.queue_unbind(lost, rest)
    with pytest.raises(exceptions.UnroutableError):
        channel.basic_publish(first, "another", b"nobody at all", mandatory=True)
    with pytest.raises(exceptions.ChannelClosedByBroker) as differs:
        channel.exchange_declare(first, "direct", durable=True)
    assert differs.value.reply_code == 406
