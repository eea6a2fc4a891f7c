# SPDX-License-Identifier: Apache-2.0
"""Clients that we did not write, and what nobody should ever send: a service answers the one and survives the other."""

import asyncio
import json
import socket
import time
from collections.abc import Callable
from typing import Any, ClassVar

import amqp
import kombu
import msgspec
import pika
import pytest

from xenops.bus.amqp import AmqpBus
from xenops.bus.blocking import BlockingBus
from xenops.bus.port import MSGPACK, Message
from xenops.errors import BadRequest, SwitchUnreachable, TimedOut
from xenops.idl import Interface, rpc
from xenops.rpc import Dispatcher, stub

from .world import AmqpWorld, name, scenario

REPLY_TO = "amq.rabbitmq.reply-to"


class Sums(Interface):
    """Something to ask for."""

    name: ClassVar[str] = "SUMS"

    @rpc(reads=True)
    async def add(self, a: int, b: int) -> int:
        """The sum."""
        raise NotImplementedError


class Adder:
    async def add(self, a: int, b: int) -> int:
        return a + b


async def serve(world: AmqpWorld) -> str:
    queue = name("sums")
    await (await world.bus()).serve(queue, Dispatcher([(Sums, Adder())]).answer)
    return queue


async def still_answers(world: AmqpWorld, queue: str) -> None:
    assert await stub(Sums, await world.bus(), queue, timeout_s=5).add(2, 3) == 5


def with_pika(url: str, queue: str, body: bytes, properties: dict[str, Any]) -> tuple[Any, bytes]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    replies: list[tuple[Any, bytes]] = []
    channel.basic_consume(REPLY_TO, lambda _c, _m, props, reply: replies.append((props, reply)), auto_ack=True)
    channel.basic_publish("", queue, body, pika.BasicProperties(reply_to=REPLY_TO, **properties))
    while not replies:
        connection.process_data_events(time_limit=5)
    connection.close()
    return replies[0]


def with_kombu(url: str, queue: str, body: bytes, properties: dict[str, Any]) -> tuple[Any, bytes]:
    replies: list[Any] = []
    with kombu.Connection(url) as connection:
        channel = connection.channel()
        channel.basic_consume(REPLY_TO, no_ack=True, callback=replies.append)
        about = {key: properties[key] for key in ("content_type", "headers") if key in properties}
        rest = {"reply_to": REPLY_TO, "correlation_id": properties.get("correlation_id", "")}
        channel.basic_publish(channel.prepare_message(body, **about, properties=rest), "", queue)
        while not replies:
            connection.drain_events(timeout=5)
    body = replies[0].body
    return replies[0].properties, body.encode() if isinstance(body, str) else body


@pytest.mark.parametrize("send", [with_pika, with_kombu])
def test_json_rpc_by_a_foreign_client(amqp_world: AmqpWorld, send: Callable[..., tuple[Any, bytes]]) -> None:
    @scenario
    async def ask(world: AmqpWorld) -> None:
        queue = await serve(world)
        request = {"jsonrpc": "2.0", "id": 7, "method": "SUMS.add", "params": {"a": 1, "b": 2}}
        properties = {"content_type": "application/json", "correlation_id": "corr"}
        _, reply = await asyncio.to_thread(send, world.url, queue, json.dumps(request).encode(), properties)
        assert json.loads(reply) == {"jsonrpc": "2.0", "id": 7, "result": 3}

    ask(amqp_world)


@scenario
async def test_the_correlation_id_comes_back_even_if_it_is_no_text(amqp_world: AmqpWorld) -> None:
    queue = await serve(amqp_world)
    body = msgspec.msgpack.encode({"method": "SUMS.add", "params": {"a": 1, "b": 2}})
    properties = {"content_type": MSGPACK, "correlation_id": b"\xff\xfe", "message_id": b"\xff"}
    got, reply = await asyncio.to_thread(with_pika, amqp_world.url, queue, body, properties)
    assert (got.correlation_id, msgspec.msgpack.decode(reply)) == (b"\xff\xfe", {"result": 3})


MALFORMED: dict[str, tuple[bytes, dict[str, Any]]] = {
    "no body": (b"", {"content_type": MSGPACK}),
    "not msgpack": (b"\xc1\xc1", {"content_type": MSGPACK}),
    "not json": (b'{"jsonrpc"', {"content_type": "application/json"}),
    "no content type": (b"x", {}),
    "foreign content type": (b"x", {"content_type": "text/plain; charset=\u00e9"}),
    "deadline is text": (b"\x81\xa6method\xa8SUMS.add", {"content_type": MSGPACK, "headers": {"deadline": "soon"}}),
    "headers of every kind": (
        b"\x81\xa6method\xa8SUMS.add",
        {"content_type": MSGPACK, "headers": {"version": None, "debug_info": {"a": [1, None, {"b": b"\xff"}]}}},
    ),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_requests_get_a_named_fault(amqp_world: AmqpWorld, case: str) -> None:
    @scenario
    async def ask(world: AmqpWorld) -> None:
        queue = await serve(world)
        body, properties = MALFORMED[case]
        got, reply = await asyncio.to_thread(with_pika, world.url, queue, body, dict(properties))
        if got.content_type == "application/json":
            assert json.loads(reply)["error"]["data"]["name"] == BadRequest.__name__
        else:
            assert msgspec.msgpack.decode(reply)["fault"]["name"] == BadRequest.__name__
        await still_answers(world, queue)

    ask(amqp_world)


@scenario
async def test_headers_that_cannot_be_decoded_are_refused_by_name(amqp_world: AmqpWorld) -> None:
    queue = await serve(amqp_world)
    body = msgspec.msgpack.encode({"method": "SUMS.add", "params": {"a": 1, "b": 2}})
    properties = {"content_type": MSGPACK, "correlation_id": "c", "headers": {"x": float("nan")}}
    try:
        got, reply = await asyncio.to_thread(with_kombu, amqp_world.url, queue, body, properties)
    except amqp.exceptions.InternalError:  # RabbitMQ, which cannot read it either, hangs up on who sends it
        await still_answers(amqp_world, queue)
        return
    assert got["correlation_id"] == "c"
    fault = msgspec.msgpack.decode(reply)["fault"]
    assert (fault["name"], fault["fields"]["path"]) == ("BadRequest", "headers")
    await still_answers(amqp_world, queue)


@pytest.mark.parametrize("reply_to", [None, "", "xenops.nobody.here", f"{REPLY_TO}.bogus", REPLY_TO, "\u00e9" * 100])
def test_replies_that_can_reach_nobody_harm_nobody(amqp_world: AmqpWorld, reply_to: str | None) -> None:
    def send(url: str, queue: str) -> None:
        connection = pika.BlockingConnection(pika.URLParameters(url))
        body = msgspec.msgpack.encode({"method": "SUMS.add", "params": {"a": 1, "b": 2}})
        channel = connection.channel()
        channel.basic_consume(REPLY_TO, lambda *_: None, auto_ack=True)
        channel.basic_publish("", queue, body, pika.BasicProperties(content_type=MSGPACK, reply_to=reply_to))
        connection.close()

    @scenario
    async def ask(world: AmqpWorld) -> None:
        queue = await serve(world)
        await asyncio.to_thread(send, world.url, queue)
        await still_answers(world, queue)

    ask(amqp_world)


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "127.0.0.1:5672", "amqp://127.0.0.1:port/", ""])
def test_what_is_no_url_of_a_switch_is_refused_by_name(url: str) -> None:
    with pytest.raises(BadRequest, match="write amqp://"):
        AmqpBus(url)


@scenario
async def test_a_refused_login_is_told_from_a_switch_that_is_not_there(amqp_world: AmqpWorld) -> None:
    user, _, place = amqp_world.url.rpartition("@")
    stranger = AmqpBus(f"{user}-not@{place}")
    try:
        with pytest.raises(SwitchUnreachable, match="refuses the user or the password"):
            await stranger.connect(2.0)
    finally:
        await stranger.close()
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    nowhere = AmqpBus(f"amqp://user:password@127.0.0.1:{port}/")
    try:
        with pytest.raises(SwitchUnreachable, match="nobody listens there"):
            await nowhere.connect(0.5)
    finally:
        await nowhere.close()


@scenario
async def test_a_request_says_when_it_was_sent(amqp_world: AmqpWorld) -> None:
    bus, queue = await amqp_world.bus(), name("looked-at")

    def look() -> None:
        blocking = BlockingBus(amqp_world.url)
        with pytest.raises(TimedOut):
            blocking.call(queue, Message(b"two"), timeout_s=0.3)
        blocking.close()
        for body in (b"one", b"two"):
            method, properties, found = channel.basic_get(queue, auto_ack=True)
            assert (method.redelivered, found) == (False, body)
            assert 0 <= time.time() - properties.timestamp < 30

    with pika.BlockingConnection(pika.URLParameters(amqp_world.url)) as connection:
        channel = connection.channel()
        channel.queue_declare(queue, durable=True)
        with pytest.raises(TimedOut):
            await bus.call(queue, Message(b"one"), timeout_s=0.3)
        await asyncio.to_thread(look)
        channel.queue_delete(queue)
