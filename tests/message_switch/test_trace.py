# SPDX-License-Identifier: Apache-2.0
"""The trace: in the form of RabbitMQ's firehose, for administrators alone, bounded, and in nobody's way."""

from collections.abc import Callable, Iterator
from typing import Any

import pika
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties
from pika.adapters.blocking_connection import BlockingChannel
from pika.exceptions import ChannelClosedByBroker

from message_switch import properties
from message_switch.access.users import User, hashed
from message_switch.frames import field
from message_switch.model.broker import Broker
from message_switch.model.message import Entry, Message
from message_switch.model.queue import Queue
from message_switch.model.trace import BYTES_MAX, COPIES_MAX, TRACE
from tests import brokers

from .conftest import SwitchProcess

pytestmark = pytest.mark.timeout(300)
SEEN = ("exchange_name", "routing_keys", "properties", "vhost", "channel", "user", "routed_queues", "redelivered")


class Somewhere:
    name = "127.0.0.1:1"


class Origin:
    number = 1
    owner = Somewhere()
    user = User("somebody")


def traced(broker: Broker, name: str = "t", **options: Any) -> Queue:
    queue = broker.declare_queue(
        name, "me", durable=True, exclusive=False, auto_delete=False, untrusted=options.get("arguments", {})
    )
    broker.exchanges.bind(TRACE, queue, "#")
    return queue


def message(key: str, body: bytes = b"x") -> Message:
    return Message("", key, b"\0\0", body)


def conversation(channel: BlockingChannel, trace: BlockingChannel) -> list[tuple[str, bytes, dict[str, Any]]]:
    """What a trace has of one message there, one answer and one message that comes twice."""
    exclusive = trace.queue_declare("", exclusive=True).method.queue
    trace.queue_bind(exclusive, TRACE, "#")
    channel.queue_declare("traced", durable=True)
    channel.queue_bind("traced", "amq.topic", "some.#")
    sent = BasicProperties(
        content_type="text/plain", correlation_id="c", delivery_mode=1, priority=3, headers={"a": 1, "b": [True, "x"]}
    )
    channel.basic_publish("amq.topic", "some.key", b"first", sent)
    channel.basic_publish("", "nowhere", b"second")
    method = None
    while method is None:
        method, _, _ = channel.basic_get("traced")
    channel.basic_reject(method.delivery_tag, requeue=True)
    consumed = next(iter(channel.consume("traced", auto_ack=True, inactivity_timeout=60)))
    assert consumed[0] is not None
    channel.cancel()
    channel.queue_delete("traced")
    found: list[tuple[str, bytes, dict[str, Any]]] = []
    for method, got, body in trace.consume(exclusive, auto_ack=True, inactivity_timeout=60):
        assert method is not None, "the trace did not come"
        found.append((method.routing_key, body, got.headers))
        if len(found) == 4:
            break
    trace.cancel()
    trace.queue_delete(exclusive)
    return sorted(found, key=lambda row: (row[0], row[2].get("redelivered", 0)))


def comparable(found: list[tuple[str, bytes, dict[str, Any]]]) -> list[Any]:
    return [(key, body, {name: headers.get(name) for name in SEEN}) for key, body, headers in found]


@pytest.fixture(scope="module")
def firehose(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """RabbitMQ whose operator has turned its firehose on."""
    node = brokers.rabbitmq(tmp_path_factory.mktemp("firehose"))
    try:
        node.start()
        brokers.trace(node, on=True)
        yield node.url
    finally:
        node.kill()
        brokers.stop_port_mapper(node)


@pytest.mark.rabbitmq
@pytest.mark.skipif(not brokers.RABBITMQ.exists(), reason="rabbitmq-server is not installed")
def test_it_is_as_rabbitmqs_firehose_has_it(running: SwitchProcess, firehose: str) -> None:
    seen = []
    for url in (running.url, firehose):
        with (
            pika.BlockingConnection(pika.URLParameters(url)) as one,
            pika.BlockingConnection(pika.URLParameters(url)) as other,
        ):
            seen.append(conversation(one.channel(), other.channel()))
    ours, theirs = seen
    for found in (ours, theirs):
        for _, _, headers in found:
            headers["user"] = "who"
            assert headers["node"]
            assert headers["connection"]
    assert comparable(ours) == comparable(theirs)
    assert [key for key, _, _ in ours] == ["deliver.traced", "deliver.traced", "publish.", "publish.amq.topic"]


def test_it_is_on_while_somebody_looks() -> None:
    broker = Broker()
    assert not broker.trace.on
    queue = traced(broker)
    assert broker.trace.on
    broker.delete_queue(queue)
    assert not broker.trace.on


def test_copies_have_a_bound_and_the_traced_does_not_notice() -> None:
    broker = Broker(bytes_max=100_000)
    queue = traced(broker)
    for _ in range(COPIES_MAX + 5):
        broker.trace.published(message("q"), Origin())
    assert len(queue.ready) == COPIES_MAX
    assert broker.trace.dropped == 5
    assert broker.queued_bytes == 0
    assert not broker.short_of


def test_bodies_have_a_bound_too_held_ones_included() -> None:
    broker = Broker()
    queue = traced(broker)
    half = b"x" * (BYTES_MAX // 2)
    broker.trace.published(message("q", half), Origin())
    assert queue.get(no_ack=False)
    for _ in range(2):
        broker.trace.published(message("q", half), Origin())
    assert (len(queue.ready), broker.trace.dropped) == (1, 1)


def test_a_queue_that_refuses_refuses_nobody() -> None:
    broker = Broker()
    queue = traced(broker, arguments={"x-max-length": 1, "x-overflow": "reject-publish"})
    broker.trace.published(message("q"), Origin())
    broker.trace.published(message("q"), Origin())
    assert (len(queue.ready), broker.trace.dropped) == (1, 1)


def test_what_came_from_the_trace_is_not_traced() -> None:
    broker = Broker()
    queue = traced(broker)
    broker.trace.published(message("q"), Origin())
    entry = queue.get(no_ack=True)
    assert entry is not None
    broker.trace.delivered(entry, queue, Origin())
    assert not queue.ready


@given(st.binary(max_size=60), st.text(max_size=300))
def test_any_message_can_be_traced(table: bytes, name: str) -> None:
    """A name of 255 bytes leaves no room for the word before it, and headers may be anything."""
    broker = Broker()
    queue = traced(broker)
    header = properties.join({properties.HEADERS: len(table).to_bytes(4, "big") + table})
    other = Queue(name, broker, owner=broker)
    broker.trace.delivered(Entry(Message("", "k", header, b""), 0, 0.0, 0.0), other, Origin())
    (entry,) = queue.ready
    assert len(entry.message.routing_key.encode()) <= 255
    rows = properties.split_table(properties.split(entry.message.header)[properties.HEADERS])
    assert rows[b"redelivered"] == field(0)


@pytest.mark.parametrize(
    "attempt",
    [
        lambda channel: channel.exchange_bind("amq.fanout", TRACE),
        lambda channel: channel.exchange_bind(TRACE, "amq.fanout"),
        lambda channel: channel.exchange_unbind(TRACE, "amq.fanout"),
        lambda channel: channel.exchange_declare("x", arguments={"alternate-exchange": TRACE}),
        lambda channel: channel.queue_declare("q", durable=True, arguments={"x-dead-letter-exchange": TRACE}),
    ],
)
def test_nothing_else_comes_or_goes_by_the_trace(
    running: SwitchProcess, attempt: Callable[[BlockingChannel], object]
) -> None:
    with pika.BlockingConnection(pika.URLParameters(running.url)) as administrator:
        with pytest.raises(ChannelClosedByBroker) as refused:
            attempt(administrator.channel())
        assert refused.value.reply_code == 403


def test_only_an_administrator_may_trace(process: SwitchProcess) -> None:
    file = process.data / "users.toml"
    rights = f"password = '{hashed(b'guess me')}'\nconfigure = '.*'\nwrite = '.*'\nread = '.*'\n"
    file.write_text(f"[somebody]\n{rights}[operator]\n{rights}administrator = true\n")
    process.start("--users-file", str(file))
    for user in ("somebody", "operator"):
        parameters = pika.URLParameters(process.url)
        parameters.credentials = pika.PlainCredentials(user, "guess me")
        with pika.BlockingConnection(parameters) as connection:
            channel = connection.channel()
            mine = channel.queue_declare("", exclusive=True).method.queue
            if user == "operator":
                channel.queue_bind(mine, TRACE, "#")
                continue
            with pytest.raises(ChannelClosedByBroker, match="administrator") as refused:
                channel.queue_bind(mine, TRACE, "#")
            assert refused.value.reply_code == 403
