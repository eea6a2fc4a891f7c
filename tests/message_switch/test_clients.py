# SPDX-License-Identifier: Apache-2.0
"""Clients that we did not write speak to the real process: kombu over py-amqp, pika under asyncio, and over the Unix socket."""

import asyncio
import os
import socket
import stat
from typing import Any

import kombu
import pika
import pytest
from pika import BasicProperties, frame, spec
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.connection import URLParameters

from message_switch.frames import GREETING

REPLY_TO = "amq.rabbitmq.reply-to"


def test_kombu_calls_and_is_answered(running: Any) -> None:
    with kombu.Connection(running.url, heartbeat=5) as client, kombu.Connection(running.url) as server:
        requests = kombu.Queue("kombu-requests", durable=True, auto_delete=True, max_length=10)
        answers = kombu.Queue("kombu-answers", exclusive=True, durable=False)
        got: list[Any] = []

        def answer(body: Any, message: Any) -> None:
            properties = message.properties
            with server.Producer() as producer:
                producer.publish(
                    {"echo": body}, routing_key=properties["reply_to"], correlation_id=properties["correlation_id"]
                )
            message.ack()

        with (
            client.Consumer(answers, callbacks=[lambda body, message: got.append((body, message))], no_ack=True),
            server.Consumer(requests, callbacks=[answer], prefetch_count=5),
            client.Producer() as producer,
        ):
            producer.publish(
                {"n": 1}, routing_key=requests.name, reply_to=answers.name, correlation_id="c1", delivery_mode=2
            )
            server.drain_events(timeout=10)
            client.drain_events(timeout=10)
            client.heartbeat_check()
        body, message = got[0]
        assert body == {"echo": {"n": 1}}
        assert message.properties["correlation_id"] == "c1"


def test_kombu_confirms_and_topics(running: Any) -> None:
    options = {"confirm_publish": True}
    with kombu.Connection(running.url, transport_options=options) as connection:
        exchange = kombu.Exchange("kombu-events", "topic", durable=True, auto_delete=True)
        queue = kombu.Queue("kombu-listener", exchange, "host.#", exclusive=True, durable=False)
        with connection.SimpleQueue(queue) as simple:
            with connection.Producer(exchange=exchange) as producer:
                for key in ("other.vm", "host.vm.1"):
                    producer.publish(b"raw", routing_key=key, content_type="application/x", content_encoding="binary")
            message = simple.get(timeout=10)
            assert message.delivery_info["routing_key"] == "host.vm.1"
            message.ack()
            with pytest.raises(simple.Empty):
                simple.get(block=False)


class Calls:
    """Sixteen calls in flight on one connection, served by the same one."""

    def __init__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        self.done: asyncio.Future[list[int]] = loop.create_future()
        self.answers: list[int] = []
        self.connection = AsyncioConnection(
            URLParameters(url),
            on_open_callback=lambda opened: opened.channel(on_open_callback=self.declare),
            on_open_error_callback=lambda _, error: self.done.set_exception(error),
            custom_ioloop=loop,
        )

    def declare(self, channel: Any) -> None:
        channel.queue_declare("", exclusive=True, callback=lambda result: self.listen(channel, result.method.queue))

    def listen(self, channel: Any, queue: str) -> None:
        channel.basic_qos(prefetch_count=4)
        channel.basic_consume(queue, self.on_request)
        channel.basic_consume(REPLY_TO, self.on_reply, auto_ack=True, callback=lambda _: self.call(channel, queue))

    def call(self, channel: Any, queue: str) -> None:
        for n in range(16):
            channel.basic_publish("", queue, b"%d" % n, BasicProperties(reply_to=REPLY_TO, correlation_id=str(n)))

    def on_request(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        channel.basic_publish("", properties.reply_to, body, BasicProperties(correlation_id=body.decode()))
        channel.basic_ack(method.delivery_tag)

    def on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        assert properties.correlation_id.encode() == body
        self.answers.append(int(body))
        if len(self.answers) == 16:
            self.done.set_result(self.answers)

    async def close(self) -> None:
        closed = asyncio.Event()
        self.connection.add_on_close_callback(lambda *_: closed.set())
        self.connection.close()
        await asyncio.wait_for(closed.wait(), 5)


def test_pika_under_asyncio(running: Any) -> None:
    async def calls() -> list[int]:
        peer = Calls(running.url)
        try:
            return await asyncio.wait_for(peer.done, 15)
        finally:
            await peer.close()

    assert sorted(asyncio.run(calls())) == list(range(16))


def test_the_unix_socket_knows_our_user(running: Any) -> None:
    path = running.data / "s"
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    said = b""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
        peer.settimeout(10)
        peer.connect(str(path))
        peer.sendall(GREETING)
        for what in (
            spec.Connection.StartOk({}, "EXTERNAL", b""),
            spec.Connection.TuneOk(10, 4096, 0),
            spec.Connection.Open("/"),
            spec.Connection.Close(200, "", 0, 0),
        ):
            peer.sendall(frame.Method(0, what).marshal())
        while data := peer.recv(65536):
            said += data
    names = []
    while said:
        size, one = frame.decode_frame(said)
        said = said[size:]
        names.append(one.method.NAME)
    assert names == ["Connection.Start", "Connection.Tune", "Connection.OpenOk", "Connection.CloseOk"]


def test_secrets_are_for_us_alone(running: Any) -> None:
    for name in ("password", "journal", "lock"):
        assert stat.S_IMODE(os.stat(running.data / name).st_mode) == 0o600
    assert len(running.password) >= 32


def test_who_does_not_read_does_not_fill_our_memory(running: Any) -> None:
    """Messages wait in the queue, others are served, and in the end the slow one gets everything."""
    count, size = 40, 1 << 20
    body = os.urandom(size)
    publisher = pika.BlockingConnection(URLParameters(running.url)).channel()
    publisher.queue_declare("slow", durable=True, auto_delete=True)
    publisher.confirm_delivery()
    parameters = URLParameters(running.url)
    with socket.create_connection((parameters.host, parameters.port)) as peer:
        peer.settimeout(10)
        peer.sendall(GREETING)
        for number, what in (
            (0, spec.Connection.StartOk({}, "PLAIN", f"\0xenops\0{running.password}")),
            (0, spec.Connection.TuneOk(10, 131072, 0)),
            (0, spec.Connection.Open("/")),
            (1, spec.Channel.Open()),
            (1, spec.Basic.Consume(0, "slow", "slow", no_ack=True)),
        ):
            peer.sendall(frame.Method(number, what).marshal())
        for _ in range(count):
            publisher.basic_publish("", "slow", body, mandatory=True)
        assert publisher.queue_declare("slow", passive=True).method.message_count > count // 2
        received, tail = 0, b""
        while received < count:
            data = peer.recv(1 << 20)
            assert data
            received += (tail + data).count(body[-16:])
            tail = data[-15:]
    publisher.connection.close()
