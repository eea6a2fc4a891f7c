# SPDX-License-Identifier: Apache-2.0
"""What passes on a bus, seen by its administrator: the trace of the switch and RabbitMQ's firehose, which have one form.

Copies wait in an exclusive queue of bounded length, so that a slow reader slows nobody down and loses the oldest; it goes with
the connection. Source: RabbitMQ, "Firehose Tracer".
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import pika
from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from xenops.bus.link import Lane, close_link, open_link
from xenops.bus.place import place
from xenops.bus.port import Message
from xenops.bus.watch.letters import Refused
from xenops.errors import ConnectionLost, SwitchUnreachable

TRACE = "amq.rabbitmq.trace"
_CONNECT_S, _GOODBYE_S = 5.0, 2.0
_WAITING_MAX, _AT_ONCE = 10_000, 500
_LOOK_S = 5.0  # between looks whether the broker traces (still)


@dataclass(frozen=True)
class Passed:
    """One message on its way in (`where` is an exchange) or out (`where` is a queue); `to` are its routing keys."""

    way: str
    where: str
    to: tuple[str, ...]
    connection: str
    redelivered: bool
    message: Message


def passed(untrusted_key: str, untrusted: dict[str, Any], body: bytes) -> Passed:
    """What a copy says; what is missing or of another kind is taken as empty, for publishers wrote some of it."""
    way, _, where = untrusted_key.partition(".")
    keys, own = untrusted.get("routing_keys"), untrusted.get("properties")
    own = own if isinstance(own, dict) else {}
    headers = own.get("headers")

    def said(name: str) -> str:
        return value if isinstance(value := own.get(name), str) else ""

    message = Message(
        body,
        said("content_type"),
        said("correlation_id") or None,
        said("reply_to") or None,
        said("message_id") or None,
        headers if isinstance(headers, dict) else {},
    )
    to = tuple(key for key in keys if isinstance(key, str)) if isinstance(keys, list) else ()
    return Passed(way, where, to, str(untrusted.get("connection", "")), untrusted.get("redelivered") == 1, message)


class Firehose:
    """See `firehose`."""

    def __init__(self, lane: Lane, queue: str, lost: "asyncio.Future[None]") -> None:
        self._lane = lane
        self._queue = queue
        self._lost = lost
        self._came: asyncio.Queue[tuple[Basic.Deliver, BasicProperties, bytes]] = asyncio.Queue()
        self._traces: bool | None = None
        self._copied = False

    async def begin(self) -> None:
        """Start."""
        channel = self._lane.channel
        await self._lane.ask(lambda done: channel.basic_qos(prefetch_count=_AT_ONCE, callback=done))
        await self._lane.ask(lambda done: channel.basic_consume(self._queue, self._take, callback=done))

    def _take(self, _: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        self._came.put_nowait((method, properties, body))

    async def passing(self, told: Callable[[bool], None]) -> AsyncGenerator[Passed, None]:
        """Everything that passes but what is our own, until the connection is lost, which raises `ConnectionLost`.

        `told` hears whether the broker traces: at the beginning, and when that has changed. It is found out by messages to
        ourselves, each of which comes after its copy.
        """
        asking = asyncio.create_task(self._ask())
        try:
            while True:
                method, properties, body = await self._next()
                if method.exchange != TRACE:
                    if self._copied is not self._traces:
                        self._traces = self._copied
                        told(self._copied)
                    self._copied = False
                    continue
                found = passed(method.routing_key, properties.headers or {}, body)
                if self._queue not in (found.where, *found.to):
                    yield found
                elif found.way == "publish":
                    self._copied = True
        finally:
            asking.cancel()

    async def _ask(self) -> None:
        while self._lane.is_open:
            self._lane.channel.basic_publish("", self._queue, b"")
            await asyncio.sleep(_LOOK_S)

    async def _next(self) -> tuple[Basic.Deliver, BasicProperties, bytes]:
        getting = asyncio.ensure_future(self._came.get())
        try:
            await asyncio.wait((getting, self._lost), return_when=asyncio.FIRST_COMPLETED)
            if not getting.done():
                self._lost.result()
            came = getting.result()
        finally:
            getting.cancel()
        self._lane.channel.basic_ack(came[0].delivery_tag)
        return came


@asynccontextmanager
async def firehose(url: str, *, name: str) -> AsyncIterator[Firehose]:
    """A connection that sees what passes; raises `Refused` for somebody who may not."""
    where = place(url).address
    parameters = pika.URLParameters(url)
    parameters.client_properties = {"connection_name": name}
    try:
        link = await open_link(parameters, _CONNECT_S)
    except (OSError, AMQPError, TimeoutError) as error:
        raise SwitchUnreachable(where, str(error) or type(error).__name__) from None
    lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def gone(_: object) -> None:
        if not lost.done():
            lost.set_exception(ConnectionLost(where))

    try:
        lane = await Lane(link, gone).open()
        channel = lane.channel
        bound = {"x-max-length": _WAITING_MAX}
        made = await lane.ask(lambda done: channel.queue_declare("", exclusive=True, arguments=bound, callback=done))
        queue = made.method.queue
        await lane.ask(lambda done: channel.queue_bind(queue, TRACE, "#", callback=done))
        yield Firehose(lane, queue, lost)
    except ChannelClosedByBroker as error:
        raise Refused(error.reply_text) from None
    finally:
        lost.cancel()
        await close_link(link, _GOODBYE_S)
