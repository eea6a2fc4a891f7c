# SPDX-License-Identifier: Apache-2.0
"""What an unmodified client sees; the same tests hold for RabbitMQ, but for those at the end."""

import uuid
from collections.abc import Callable
from typing import Any

import pika
import pytest
from pika import BasicProperties, exceptions
from pika.adapters.blocking_connection import BlockingChannel

from tests.message_switch.asking import REPLY_TO, Connect, Durable, fetch, fetch_count, until


def test_a_call_with_direct_reply_to(connect: Connect, durable: Durable) -> None:
    queue = durable()
    client, server = connect().channel(), connect().channel()
    replies: list[tuple[Any, bytes]] = []
    returned: list[Any] = []
    client.add_on_return_callback(lambda *a: returned.append(a))
    client.basic_consume(REPLY_TO, lambda c, m, p, b: replies.append((p, b)), auto_ack=True)
    client.basic_publish("", queue, b"ping", BasicProperties(reply_to=REPLY_TO, correlation_id="7", headers={"f": 1}))
    _, request, body = fetch(server, queue)
    assert body == b"ping"
    assert request.reply_to.startswith(REPLY_TO + ".")
    assert request.headers == {"f": 1}
    assert server.queue_declare(request.reply_to, passive=True).method.consumer_count == 1
    server.basic_publish("", request.reply_to, b"pong", BasicProperties(correlation_id=request.correlation_id))
    until(client.connection, lambda: replies)
    assert replies[0][0].correlation_id == "7"
    assert replies[0][1] == b"pong"
    client.connection.close()
    with pytest.raises(exceptions.ChannelClosedByBroker) as gone:
        server.queue_declare(request.reply_to, passive=True)
    assert gone.value.reply_code == 404
    assert not returned


@pytest.mark.parametrize("wrong", ["no consumer", "wants to acknowledge"])
def test_direct_reply_to_refused(channel: BlockingChannel, durable: Durable, wrong: str) -> None:
    queue = durable()

    def attempt() -> None:
        if wrong == "no consumer":
            channel.basic_publish("", queue, b"", BasicProperties(reply_to=REPLY_TO))
            channel.basic_get(queue)
        else:
            channel.basic_consume(REPLY_TO, lambda *a: None, auto_ack=False)

    with pytest.raises(exceptions.ChannelClosedByBroker) as refused:
        attempt()
    assert refused.value.reply_code == 406


def test_mandatory_returns_and_confirms(channel: BlockingChannel, durable: Durable) -> None:
    channel.confirm_delivery()
    with pytest.raises(exceptions.UnroutableError) as returned:
        channel.basic_publish("", f"nobody-{uuid.uuid4()}", b"body", mandatory=True)
    assert returned.value.messages[0].method.reply_code == 312
    assert returned.value.messages[0].body == b"body"
    channel.basic_publish("", durable(), b"", BasicProperties(delivery_mode=2), mandatory=True)
    channel.basic_publish("", "nobody-at-all", b"")


def test_a_full_queue_refuses(channel: BlockingChannel, durable: Durable) -> None:
    channel.confirm_delivery()
    queue = durable(max_length=2, overflow="reject-publish")
    for _ in range(2):
        channel.basic_publish("", queue, b"", BasicProperties(delivery_mode=2))
    with pytest.raises(exceptions.NackError):
        channel.basic_publish("", queue, b"")
    fetch(channel, queue)
    channel.basic_publish("", queue, b"")


@pytest.mark.parametrize("limit", [{"max_length": 1}, {"max_length_bytes": 3}])
def test_what_is_given_back_to_a_full_queue_is_the_first_to_go(
    channel: BlockingChannel, durable: Durable, limit: dict[str, int]
) -> None:
    dead = durable()
    queue = durable(dead_letter_exchange="", dead_letter_routing_key=dead, **limit)
    channel.basic_publish("", queue, b"old")
    method, _, _ = fetch(channel, queue, auto_ack=False)
    channel.basic_publish("", queue, b"new")
    channel.basic_nack(method.delivery_tag, requeue=True)
    assert fetch(channel, dead)[2] == b"old"
    assert fetch(channel, queue)[2] == b"new"
    assert fetch_count(channel, queue) == 0


def test_a_full_queue_drops_its_oldest(channel: BlockingChannel, durable: Durable) -> None:
    dead = durable()
    queue = durable(max_length=2, dead_letter_exchange="", dead_letter_routing_key=dead)
    for body in (b"1", b"2", b"3"):
        channel.basic_publish("", queue, body)
    assert fetch(channel, dead)[2] == b"1"
    assert [fetch(channel, queue)[2] for _ in range(2)] == [b"2", b"3"]


def test_expiry_dead_letters(channel: BlockingChannel, durable: Durable) -> None:
    dead = durable()
    queue = durable(message_ttl=60000, dead_letter_exchange="", dead_letter_routing_key=dead)
    headers = {"pi": True, "text": "ü", "list": [1, "two"]}
    channel.basic_publish("", queue, b"late", BasicProperties(expiration="30", headers=headers, message_id="m"))
    method, properties, body = fetch(channel, dead)
    assert (method.routing_key, properties.message_id, body) == (dead, "m", b"late")
    assert properties.expiration is None
    row = properties.headers["x-death"][0]
    assert (row["reason"], row["queue"], row["count"], row["routing-keys"]) == ("expired", queue, 1, [queue])
    assert row["original-expiration"] == "30"
    assert properties.headers["x-first-death-reason"] == "expired"
    assert {key: properties.headers[key] for key in headers} == headers


def test_what_is_rejected_may_go_round(channel: BlockingChannel, durable: Durable) -> None:
    """The usual way to try again later: work, rejected, waits, work."""
    exchange = f"test-{uuid.uuid4().hex}"
    channel.exchange_declare(exchange, "direct", auto_delete=True)
    work = durable(dead_letter_exchange=exchange, dead_letter_routing_key="wait")
    waits = durable(message_ttl=1, dead_letter_exchange="", dead_letter_routing_key=work)
    channel.queue_bind(waits, exchange, "wait")
    channel.basic_publish("", work, b"x")
    for rounds in range(3):
        method, properties, _ = fetch(channel, work, auto_ack=False)
        rows = (properties.headers or {}).get("x-death", [])
        assert [row["count"] for row in rows] == [rounds] * len(rows)
        assert {(row["queue"], row["reason"]) for row in rows} == (
            {(work, "rejected"), (waits, "expired")} if rounds else set()
        )
        channel.basic_reject(method.delivery_tag, requeue=False)


def test_an_automatic_circle_is_cut(channel: BlockingChannel, durable: Durable) -> None:
    exchange = f"test-{uuid.uuid4().hex}"
    channel.exchange_declare(exchange, "fanout", auto_delete=True)
    circle, witness = durable(message_ttl=1, dead_letter_exchange=exchange), durable()
    channel.queue_bind(circle, exchange)
    channel.queue_bind(witness, exchange)
    for body in (b"first", b"second"):
        channel.basic_publish("", circle, body)
        assert fetch(channel, witness)[2] == body  # and not the first one again
    assert fetch_count(channel, circle) == 0


def test_what_a_lost_connection_held_comes_again_in_order(connect: Connect, durable: Durable) -> None:
    queue = durable()
    first, second = connect().channel(), connect().channel()
    for n in range(5):
        second.basic_publish("", queue, str(n).encode())
    held = [fetch(first, queue, auto_ack=False) for _ in range(3)]
    assert [(m.redelivered, body) for m, _, body in held] == [(False, b"0"), (False, b"1"), (False, b"2")]
    first.basic_ack(held[1][0].delivery_tag)
    first.connection.close()
    again = [fetch(second, queue) for _ in range(4)]
    assert [(m.redelivered, body) for m, _, body in again] == [(True, b"0"), (True, b"2"), (False, b"3"), (False, b"4")]


def test_prefetch_and_turns(connect: Connect, durable: Durable) -> None:
    queue = durable()
    got: dict[str, list[Any]] = {"a": [], "b": []}
    channel = connect().channel()
    channel.basic_qos(prefetch_count=2)
    for name in got:
        channel.basic_consume(queue, lambda c, m, p, b, name=name: got[name].append(m), consumer_tag=name)
    for _ in range(6):
        channel.basic_publish("", queue, b"")
    until(channel.connection, lambda: len(got["a"]) == len(got["b"]) == 2)
    until(channel.connection, lambda: fetch_count(channel, queue) == 2)
    channel.basic_ack(max(m.delivery_tag for m in got["a"] + got["b"]), multiple=True)
    until(channel.connection, lambda: len(got["a"]) + len(got["b"]) == 6)
    channel.basic_nack(0, multiple=True, requeue=True)
    until(channel.connection, lambda: len(got["a"]) + len(got["b"]) == 8)
    assert all(m.redelivered for m in (got["a"] + got["b"]) if m.delivery_tag > 6)


def test_priorities(channel: BlockingChannel, durable: Durable) -> None:
    """The highest first, above the queue's own as that, in order within one; what comes back stands where it stood."""
    queue = durable(max_priority=5, max_length=6, dead_letter_exchange="", dead_letter_routing_key="nowhere")
    for body, priority in (("a", None), ("b", 5), ("c", 2), ("d", 9), ("e", 0), ("f", 2)):
        channel.basic_publish("", queue, body.encode(), BasicProperties(priority=priority))
    until(channel.connection, lambda: fetch_count(channel, queue) == 6)
    held = [fetch(channel, queue, auto_ack=False) for _ in range(4)]
    assert b"".join(body for _, _, body in held) == b"bdcf"
    channel.basic_nack(held[2][0].delivery_tag, multiple=True, requeue=True)
    until(channel.connection, lambda: fetch_count(channel, queue) == 5)
    channel.basic_publish("", queue, b"g", BasicProperties(priority=2))
    channel.basic_publish(
        "", queue, b"h", BasicProperties(priority=1)
    )  # one too many: the head goes, whatever its rank
    assert b"".join(fetch(channel, queue)[2] for _ in range(6)) == b"dcghae"


@pytest.mark.parametrize("most", [256, -1, "two"])
def test_priorities_that_there_are_not(channel: BlockingChannel, most: object) -> None:
    with pytest.raises(exceptions.ChannelClosedByBroker) as refused:
        channel.queue_declare(f"test-{uuid.uuid4().hex}", durable=True, arguments={"x-max-priority": most})
    assert refused.value.reply_code == 406


def test_exclusive_queues(connect: Connect) -> None:
    owner, other = connect().channel(), connect().channel()
    name = owner.queue_declare("", exclusive=True).method.queue
    assert name.startswith("amq.gen-")
    with pytest.raises(exceptions.ChannelClosedByBroker) as locked:
        other.queue_declare(name, passive=True)
    assert locked.value.reply_code == 405
    owner.connection.close()
    again = other.connection.channel()
    with pytest.raises(exceptions.ChannelClosedByBroker) as gone:
        again.queue_declare(name, passive=True)
    assert gone.value.reply_code == 404


def test_what_is_not_there_is_told_before_whose_the_rest_is(connect: Connect) -> None:
    owner, other = connect().channel(), connect().channel()
    name = owner.queue_declare("", exclusive=True).method.queue
    for exchange, code in (("nowhere", 404), ("amq.topic", 405)):
        with pytest.raises(exceptions.ChannelClosedByBroker) as refused:
            other.queue_bind(name, exchange)
        assert refused.value.reply_code == code
        other = other.connection.channel()


MISTAKES: dict[str, tuple[int, Callable[[BlockingChannel, str], Any]]] = {
    "no such queue": (404, lambda c, q: c.basic_consume("nowhere", print)),
    "no such exchange": (404, lambda c, q: (c.basic_publish("nowhere", "", b""), c.basic_get(q))),
    "no such exchange to bind to": (404, lambda c, q: c.queue_bind(q, "nowhere")),
    "reserved queue name": (403, lambda c, q: c.queue_declare("amq.mine", durable=True)),
    "reserved exchange name": (403, lambda c, q: c.exchange_declare("amq.mine")),
    "default exchange": (403, lambda c, q: c.queue_bind(q, "", "key")),
    "not the same queue": (406, lambda c, q: c.queue_declare(q, durable=True, arguments={"x-message-ttl": 1})),
    "not the same exchange": (406, lambda c, q: c.exchange_declare("amq.topic", "fanout", durable=True)),
    "negative ttl": (406, lambda c, q: c.queue_declare(q + "-", durable=True, arguments={"x-message-ttl": -1})),
    "a limit that only quorum queues have": (
        406,
        lambda c, q: c.queue_declare(q + "-", durable=True, arguments={"x-delivery-limit": 3}),
    ),
    "unknown delivery": (406, lambda c, q: (c.basic_ack(99), c.basic_get(q))),
    "unknown deliveries": (406, lambda c, q: (c.basic_ack(99, multiple=True), c.basic_get(q))),
    "a bad expiration": (
        406,
        lambda c, q: (c.basic_publish("", q, b"", BasicProperties(expiration="soon")), c.basic_get(q)),
    ),
    "another user": (406, lambda c, q: (c.basic_publish("", q, b"", BasicProperties(user_id="root")), c.basic_get(q))),
    "still full": (406, lambda c, q: (c.basic_publish("", q, b""), c.queue_delete(q, if_empty=True))),
    "still used": (406, lambda c, q: (c.basic_consume(q, print), c.queue_delete(q, if_unused=True))),
    "somebody's alone": (
        403,
        lambda c, q: (c.basic_consume(q, print), c.basic_consume(q, print, exclusive=True)),
    ),
}


@pytest.mark.parametrize("what", MISTAKES)
def test_mistakes_that_close_the_channel(channel: BlockingChannel, durable: Durable, what: str) -> None:
    code, make = MISTAKES[what]
    with pytest.raises(exceptions.ChannelClosedByBroker) as closed:
        make(channel, durable())
    assert closed.value.reply_code == code
    channel.connection.channel().close()  # the connection goes on


def test_a_deleted_queue_tells_its_consumers(connect: Connect, durable: Durable) -> None:
    queue = durable()
    channel, other = connect().channel(), connect().channel()
    told: list[Any] = []
    channel.add_on_cancel_callback(told.append)
    channel.basic_consume(queue, lambda *a: None, consumer_tag="me")
    other.queue_delete(queue)
    until(channel.connection, lambda: told)
    assert told[0].method.consumer_tag == "me"


def test_big_bodies_empty_bodies_long_names(channel: BlockingChannel) -> None:
    long_name = uuid.uuid4().hex.ljust(255, "x")
    channel.queue_declare(long_name, exclusive=True)
    for body in (b"", b"x" * 131064, b"x" * 131065, bytes(range(256)) * 4000):
        channel.basic_publish("", long_name, body)
        assert fetch(channel, long_name)[2] == body


def test_expiring_and_auto_deleted_queues(channel: BlockingChannel, durable: Durable) -> None:
    short = durable(expires=50)
    named = f"test-{uuid.uuid4().hex}"
    channel.queue_declare(named, durable=True, auto_delete=True)
    tag = channel.basic_consume(named, lambda *a: None)
    channel.basic_cancel(tag)
    for name in (short, named):

        def gone(name: str = name) -> bool:
            with channel.connection.channel() as probe:
                try:
                    probe.queue_declare(name, passive=True)
                except exceptions.ChannelClosedByBroker as closed:
                    return bool(closed.reply_code == 404)
                # Asking for a queue is a use of it: let its time run.
                channel.connection.sleep(0.1)
                return False

        until(channel.connection, gone)


def test_purge_counts_what_waits(channel: BlockingChannel, durable: Durable) -> None:
    queue = durable()
    for _ in range(3):
        channel.basic_publish("", queue, b"")
    fetch(channel, queue, auto_ack=False)
    assert channel.queue_purge(queue).method.message_count == 2
    channel.basic_recover(requeue=True)
    assert channel.queue_delete(queue).method.message_count == 1
    assert channel.queue_delete(queue).method.message_count == 0


# -- as RabbitMQ 4.3 has it, and 3.10 not yet -------------------------------------------------------------------------


REFUSED: dict[str, tuple[int, Callable[[BlockingChannel], Any]]] = {
    "global qos": (540, lambda c: c.basic_qos(prefetch_count=1, global_qos=True)),
    "neither durable nor exclusive": (541, lambda c: c.queue_declare("transient")),
    "unknown argument": (
        406,
        lambda c: c.queue_declare("q", durable=True, arguments={"x-single-active-consumer": True}),
    ),
    "headers exchange": (540, lambda c: c.exchange_declare("h", "headers")),
    "transactions": (540, lambda c: c.tx_select()),
}


@pytest.mark.parametrize("what", REFUSED)
def test_refused_here(running: Any, what: str) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(running.url))
    code, attempt = REFUSED[what]
    channel = connection.channel()
    with pytest.raises(exceptions.AMQPError) as refused:
        attempt(channel)
    assert isinstance(refused.value, exceptions.ConnectionClosedByBroker | exceptions.ChannelClosedByBroker)
    assert refused.value.reply_code == code
    if connection.is_open:
        connection.close()


def test_login_and_vhost(running: Any) -> None:
    parameters = pika.URLParameters(running.url)
    parameters.virtual_host = "/other"
    with pytest.raises(exceptions.ProbableAccessDeniedError, match="530"):
        pika.BlockingConnection(parameters)
    for user, password in (("xenops", "guess"), ("root", running.password), ("xenops", "")):
        parameters = pika.URLParameters(running.url)
        parameters.credentials = pika.PlainCredentials(user, password)
        with pytest.raises(exceptions.ProbableAuthenticationError):
            pika.BlockingConnection(parameters)
