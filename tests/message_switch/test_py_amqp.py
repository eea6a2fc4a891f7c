# SPDX-License-Identifier: Apache-2.0
"""py-amqp, unmodified and without kombu around it, speaks to the switch and to RabbitMQ alike."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import amqp
import pytest
from pika import URLParameters

from tests.message_switch.asking import REPLY_TO, silence

PATIENCE_S = 30


def connected(url: str, **options: Any) -> amqp.Connection:
    at = URLParameters(url)
    login = {"userid": at.credentials.username, "password": at.credentials.password}
    connection = amqp.Connection(f"{at.host}:{at.port}", **login, confirm_publish=True, **options)
    connection.connect()
    return connection


@pytest.fixture
def channel(url: str) -> Iterator[amqp.Channel]:
    connection = connected(url)
    yield connection.channel()
    connection.close()


def until(channel: amqp.Channel, ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not ready():
        channel.connection.drain_events(timeout=PATIENCE_S)
        assert time.monotonic() < deadline, "it never came"


def test_publish_with_confirms_consume_and_give_back(channel: amqp.Channel) -> None:
    queue = channel.queue_declare("", exclusive=True).queue
    channel.exchange_declare("py-amqp-direct", "direct", auto_delete=True)
    channel.queue_bind(queue, "py-amqp-direct", "key")
    channel.basic_qos(0, 1, False)
    for body in ("a", "b"):
        message = amqp.Message(body, delivery_mode=2, application_headers={"n": 1})
        channel.basic_publish_confirm(message, "py-amqp-direct", "key", confirm_timeout=PATIENCE_S)
    seen: list[tuple[str, bool]] = []

    def came(message: Any) -> None:
        seen.append((message.body, message.delivery_info["redelivered"]))
        assert message.headers == {"n": 1}
        if len(seen) == 1:
            channel.basic_reject(message.delivery_tag, requeue=True)
        else:
            channel.basic_ack(message.delivery_tag)

    channel.basic_consume(queue, callback=came)
    until(channel, lambda: len(seen) == 3)
    assert seen == [("a", False), ("a", True), ("b", False)]


def test_a_full_queue_refuses(channel: amqp.Channel) -> None:
    limits = {"x-max-length": 1, "x-overflow": "reject-publish"}
    queue = channel.queue_declare("", exclusive=True, arguments=limits).queue
    channel.basic_publish_confirm(amqp.Message("1"), "", queue, confirm_timeout=PATIENCE_S)
    with pytest.raises(amqp.exceptions.MessageNacked):
        channel.basic_publish_confirm(amqp.Message("2"), "", queue, confirm_timeout=PATIENCE_S)


def test_what_nobody_is_there_for_comes_back(channel: amqp.Channel) -> None:
    returned: list[Any] = []
    channel.events["basic_return"].add(lambda *told: returned.append(told))
    channel.basic_publish(amqp.Message("lost"), "", "py-amqp-nobody", mandatory=True)
    until(channel, lambda: returned)
    fault, _, key, message = returned[0]
    assert (fault.reply_code, key, message.body) == (312, "py-amqp-nobody", "lost")


def test_a_call_with_direct_reply_to(channel: amqp.Channel) -> None:
    queue = channel.queue_declare("", exclusive=True).queue
    replies: list[Any] = []

    def serve(message: Any) -> None:
        channel.basic_publish(amqp.Message(message.body + "!", correlation_id="7"), "", message.reply_to)

    channel.basic_consume(queue, no_ack=True, callback=serve)
    channel.basic_consume(REPLY_TO, no_ack=True, callback=replies.append)
    channel.basic_publish(amqp.Message("x", reply_to=REPLY_TO, correlation_id="7"), "", queue)
    until(channel, lambda: replies)
    assert (replies[0].body, replies[0].properties["correlation_id"]) == ("x!", "7")


def test_a_consumer_is_told_when_its_queue_goes(channel: amqp.Channel) -> None:
    gone: list[str] = []
    channel.queue_declare("py-amqp-goes", durable=True, auto_delete=False)
    channel.basic_consume("py-amqp-goes", "tag", callback=print, on_cancel=gone.append)
    channel.queue_delete("py-amqp-goes")
    until(channel, lambda: gone)
    assert gone == ["tag"]


def test_heartbeats_keep_an_idle_connection(url: str) -> None:
    """py-amqp leaves it to its user to send them now and then; who sends none at all is hung up on."""
    connection = connected(url, heartbeat=1)
    other = threading.Thread(target=silence, args=(url,))
    other.start()
    while other.is_alive():
        connection.heartbeat_tick()
        other.join(0.2)
        try:
            connection.drain_events(timeout=0.01)
        except TimeoutError:
            continue
    assert connection.channel().queue_declare("", exclusive=True).queue.startswith("amq.gen-")
    connection.close()
