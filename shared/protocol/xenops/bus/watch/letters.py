# SPDX-License-Identifier: Apache-2.0
"""Messages taken off a queue by hand, for people who look after a bus: to look at, to forget, to send again.

Each `Letter` is held until it is settled; what was not settled when the connection ends goes back to its queue, where it is
then marked as delivered before.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from pika import spec
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import BasicProperties

from xenops.bus.link import Lane, Link, close_link, open_link, parameters
from xenops.bus.place import Place, address_of, places
from xenops.bus.port import Message
from xenops.bus.untrusted import message
from xenops.errors import Busy, ConnectionLost, DoesNotExist, SwitchUnreachable

_CONNECT_S, _GOODBYE_S = 5.0, 2.0
_NOT_FOUND = 404
_RETRY_AFTER_MS = 1000


class Letter:
    """One message in our hands; `properties` are as they came, for sending it on untouched."""

    def __init__(self, tag: int, message: Message, properties: BasicProperties, routing_key: str) -> None:
        self.tag = tag
        self.message = message
        self.properties = properties
        self.routing_key = routing_key


class Letterbox:
    """One channel that takes and settles; see `letterbox`."""

    def __init__(self, lane: Lane, where: str) -> None:
        self._lane = lane
        self._where = where
        self._empty: Callable[[Any], None] | None = None
        self._confirmed: Callable[[Any], None] | None = None
        self._returned = False
        lane.channel.add_callback(lambda _: self._empty and self._empty(None), [spec.Basic.GetEmpty], one_shot=False)
        lane.channel.add_on_return_callback(self._on_return)

    async def take(self, queue: str) -> Letter | None:
        """The first message that waits there; raises `DoesNotExist` for a queue that is not there."""

        def begin(done: Callable[[Any], None]) -> None:
            self._empty = done
            self._lane.channel.basic_get(queue, lambda _, method, properties, body: done((method, properties, body)))

        found = await self._ask(queue, begin)
        if found is None:
            return None
        method, properties, body = found
        return Letter(method.delivery_tag, message(properties, body), properties, method.routing_key)

    def forget(self, letter: Letter) -> None:
        """Acknowledge it: it is gone."""
        self._lane.channel.basic_ack(letter.tag)

    def put_back(self, letter: Letter) -> None:
        """Return it to where it stood."""
        self._lane.channel.basic_nack(letter.tag, requeue=True)

    async def send_again(self, letter: Letter, queue: str, headers: dict[str, Any]) -> None:
        """Publish a copy of it to a queue and return when the broker has confirmed it; then forget the original."""
        properties = letter.properties
        properties.headers = headers or None
        self._returned = False

        def begin(done: Callable[[Any], None]) -> None:
            self._confirmed = done
            self._lane.channel.basic_publish("", queue, letter.message.body, properties, mandatory=True)

        answer = await self._ask(queue, begin)
        if self._returned:
            raise DoesNotExist("queue", queue)
        if isinstance(answer.method, spec.Basic.Nack):
            raise Busy(queue, _RETRY_AFTER_MS)
        self.forget(letter)

    async def delete(self, queue: str, *, if_unused: bool, if_empty: bool) -> int:
        """Delete a queue and what waits in it; how many messages that were."""
        await self._ask(queue, lambda done: self._lane.channel.queue_declare(queue, passive=True, callback=done))
        answer = await self._ask(
            queue,
            lambda done: self._lane.channel.queue_delete(queue, if_unused=if_unused, if_empty=if_empty, callback=done),
        )
        return int(answer.method.message_count)

    async def confirming(self) -> "Letterbox":
        """From here on the broker confirms what is sent."""
        await self._ask("", lambda done: self._lane.channel.confirm_delivery(self._on_confirm, done))
        return self

    async def settled(self) -> None:
        """Return when the broker has seen all that was said so far: it answers in order."""
        await self._ask("", lambda done: self._lane.channel.basic_qos(callback=done))

    async def _ask(self, queue: str, begin: Callable[[Callable[[Any], None]], Any]) -> Any:
        try:
            return await self._lane.ask(begin)
        except ChannelClosedByBroker as error:
            if error.reply_code == _NOT_FOUND:
                raise DoesNotExist("queue", queue) from None
            raise Refused(error.reply_text) from None
        except AMQPError:
            raise ConnectionLost(self._where) from None

    def _on_return(self, *_: object) -> None:
        self._returned = True

    def _on_confirm(self, frame: Any) -> None:
        if self._confirmed is not None:
            self._confirmed(frame)


class Refused(Exception):
    """The broker says no, and why: the queue is another's, in use, or not empty."""


@asynccontextmanager
async def letterbox(url: str, *, name: str) -> AsyncIterator[Letterbox]:
    """A connection for work on queues by hand."""
    nodes = places(url)
    where = address_of(nodes)
    link = await _first_link(nodes, name, where)
    try:
        lane = await Lane(link, lambda error: None).open()
        yield await Letterbox(lane, where).confirming()
    finally:
        await close_link(link, _GOODBYE_S)


async def _first_link(nodes: list[Place], name: str, where: str) -> Link:
    why: BaseException | None = None
    for node in nodes:
        try:
            return await open_link(parameters(node, name), _CONNECT_S)
        except (OSError, AMQPError, TimeoutError) as error:
            why = error
    raise SwitchUnreachable(where, str(why) or type(why).__name__) from None
