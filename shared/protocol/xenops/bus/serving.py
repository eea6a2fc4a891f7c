# SPDX-License-Identifier: Apache-2.0
"""What one AMQP connection does for one `serve` or one `subscribe`: its channel, and what arrives there.

Each is declared anew on every connection, and again when the broker closes its channel while the connection stays.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Any, Literal, Protocol

from pika.channel import Channel
from pika.exceptions import AMQPError, ChannelClosedByBroker
from pika.spec import Basic, BasicProperties

from xenops.bus.acks import Acks
from xenops.bus.link import Lane, Link
from xenops.bus.port import DEAD_QUEUE, EVENTS_EXCHANGE, Answer, Message, Receive, answered
from xenops.bus.untrusted import message

log = logging.getLogger(__name__)
_PRECONDITION_FAILED = 406
QueueType = Literal["classic", "quorum"]
DEAD_LIMIT = 10000  # dead letters are for people to look at: the oldest go first


class Owner(Protocol):
    """The bus to which it belongs."""

    queue_type: QueueType

    def reply(self, reply_to: str, reply: Message) -> None:
        """Send a reply over whatever connection there is, or the next."""

    def failed(self, served: "Served | Subscribed", error: BaseException) -> None:
        """Its channel was closed by the broker."""

    def forget(self, served: "Served | Subscribed") -> None:
        """It was cancelled: do not declare it again."""


class Delivered:
    """A request in the hands of its server; it remembers the channel on which it may be acknowledged."""

    __slots__ = ("_accepted", "_served", "lane", "message", "tag")

    def __init__(self, served: "Served", lane: Lane, tag: int, request: Message) -> None:
        self._served, self.lane, self.tag, self.message = served, lane, tag, request
        self._accepted = False

    @property
    def accepted(self) -> bool:
        """Whether it is ours."""
        return self._accepted

    @property
    def current(self) -> bool:
        """Whether the channel it came by is still there; otherwise, if not accepted, it is delivered again."""
        return self.lane.failure is None

    def accept(self) -> None:
        if not self._accepted:
            self._accepted = True
            self._served.settled(self.lane, self.tag)


class Served:
    """One queue whose requests are answered here."""

    def __init__(self, owner: Owner, queue: str, answer: Answer, prefetch: int, limit: int) -> None:
        self._owner, self._queue, self._answer, self._prefetch, self._limit = owner, queue, answer, prefetch, limit
        self._lane: Lane | None = None
        self._tag = ""
        self._acks = Acks()
        self._flushing = False
        self._under_way: set[asyncio.Task[None]] = set()
        self._cancelled = False

    async def declare(self, link: Link) -> None:
        """Declare the queue on this connection, and where its unreadable requests go, and consume from it."""
        await open_dead_queue(link, self._owner.queue_type)
        lane, _ = await open_queue(link, self._queue, self._owner.queue_type, self._limit, self._closed)
        await lane.ask(lambda done: lane.channel.basic_qos(prefetch_count=self._prefetch, callback=done))
        self._lane, self._acks = lane, Acks()

        def receive(_: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
            self._deliver(lane, method, properties, body)

        await lane.ask(
            lambda done: setattr(self, "_tag", lane.channel.basic_consume(self._queue, receive, callback=done))
        )
        if self._cancelled:
            lane.close()

    def _closed(self, error: BaseException) -> None:
        lane, self._lane = self._lane, None
        if lane is not None and not self._cancelled:
            self._owner.failed(self, error)

    def _deliver(self, lane: Lane, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        request = message(properties, body, redelivered=bool(method.redelivered))
        delivery = Delivered(self, lane, method.delivery_tag or 0, request)
        task = asyncio.get_running_loop().create_task(self._attend(delivery))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _attend(self, delivery: Delivered) -> None:
        request = delivery.message
        try:
            reply = answered(await self._answer(delivery))
        except Exception:  # the edge: a request that breaks its server must not come back to it for ever
            log.exception("a request to %s broke its server and is now in %s", self._queue, DEAD_QUEUE)
            self._reject(delivery)
            return
        if reply is not None and request.reply_to and (delivery.current or delivery.accepted):
            reply.correlation_id = request.correlation_id
            self._owner.reply(request.reply_to, reply)
        delivery.accept()
        if len(self._under_way) == 1 and delivery.current:
            delivery.lane.link.flush()  # no other reply that could go along

    def _reject(self, delivery: Delivered) -> None:
        lane = self._lane
        if lane is not None and lane.is_open and delivery.current and not delivery.accepted:
            lane.channel.basic_nack(delivery.tag, requeue=False)
            self._acks.settle(delivery.tag)

    def settled(self, lane: Lane, tag: int) -> None:
        """A delivery is done: tell the broker, together with all that end in this turn of the loop."""
        if lane is not self._lane:
            return  # its channel is gone, and with it the delivery
        self._acks.done(tag)
        if not self._flushing:
            self._flushing = True
            lane.link.before_flush(self._flush)

    def _flush(self) -> None:
        self._flushing = False
        if self._lane is not None and self._lane.is_open:
            for ack in self._acks.take():
                self._lane.channel.basic_ack(ack.tag, ack.multiple)

    async def cancel(self) -> None:
        """Take no further request; those under way are answered, and their channel closed after the last."""
        if self._cancelled:
            return
        self._cancelled = True
        self._owner.forget(self)
        lane = self._lane
        if lane is not None and lane.is_open:
            await stop_consuming(lane, self._tag)
            if self._under_way:
                last = asyncio.gather(*self._under_way, return_exceptions=True)
                last.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(lane.close))
            else:
                lane.close()

    async def abandon(self) -> None:
        """Stop everything under way; what is not accepted will be delivered again."""
        self._cancelled = True
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._flush()


class Subscribed:
    """Some topics whose events are wanted here, through a queue of its own that loses the oldest when it is full."""

    def __init__(
        self, owner: Owner, patterns: list[str], receive: Receive, on_gap: Callable[[], None] | None, limit: int
    ) -> None:
        self._owner, self._patterns, self._receive, self._on_gap, self._limit = owner, patterns, receive, on_gap, limit
        self._lane: Lane | None = None
        self._tag = ""
        self._seen = False
        self._cancelled = False

    async def declare(self, link: Link) -> None:
        """Declare and bind a queue on this connection; on any but the first, events may have been missed."""
        lane = await Lane(link, self._closed).open()
        channel = lane.channel
        arguments = {"x-max-length": self._limit}
        declared = await lane.ask(
            lambda done: channel.queue_declare("", exclusive=True, auto_delete=True, arguments=arguments, callback=done)
        )
        queue: str = declared.method.queue
        for pattern in self._patterns:
            await lane.ask(lambda done, p=pattern: channel.queue_bind(queue, EVENTS_EXCHANGE, p, callback=done))  # type: ignore[misc]
        await lane.ask(
            lambda done: setattr(
                self, "_tag", channel.basic_consume(queue, self._deliver, auto_ack=True, callback=done)
            )
        )
        self._lane = lane
        if self._cancelled:
            lane.close()
        elif self._seen and self._on_gap is not None:
            self._on_gap()
        self._seen = True

    def _deliver(self, _: Channel, method: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        if self._cancelled:
            return
        try:
            self._receive(message(properties, body, str(method.routing_key), redelivered=bool(method.redelivered)))
        except Exception:  # the edge: the others' events must go on
            log.exception("an event broke its receiver")

    def _closed(self, error: BaseException) -> None:
        lane, self._lane = self._lane, None
        if lane is not None and not self._cancelled:
            self._owner.failed(self, error)

    async def cancel(self) -> None:
        """Receive nothing more."""
        if self._cancelled:
            return
        self._cancelled = True
        self._owner.forget(self)
        if self._lane is not None and self._lane.is_open:
            await stop_consuming(self._lane, self._tag)
            if self._lane is not None:
                self._lane.close()

    async def abandon(self) -> None:
        """Receive nothing more, without a word to the broker."""
        self._cancelled = True


async def open_queue(
    link: Link, queue: str, queue_type: QueueType, limit: int, on_closed: Callable[[BaseException], None]
) -> tuple[Lane, int]:
    """A channel on which this queue of requests was declared, and how many consume from it now."""
    arguments = {
        "x-max-length": limit,
        "x-overflow": "reject-publish",
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": DEAD_QUEUE,
    }
    return await _open(link, queue, arguments | _typed(queue_type), on_closed)


async def consumers(link: Link, queue: str, queue_type: QueueType, limit: int) -> int:
    """How many serve a queue now, which is declared; 0 also where that cannot be told."""
    try:
        lane, count = await open_queue(link, queue, queue_type, limit, lambda _: None)
    except AMQPError as error:
        log.debug("how many serve %s cannot be told: %r", queue, error)  # `serve` meets it as well, and mends it
        return 0
    lane.close()
    return count


async def open_dead_queue(link: Link, queue_type: QueueType) -> None:
    """Declare where requests go that nobody could read."""
    lane, _ = await _open(link, DEAD_QUEUE, {"x-max-length": DEAD_LIMIT} | _typed(queue_type), lambda _: None)
    lane.close()


def _typed(queue_type: QueueType) -> dict[str, Any]:
    # Not said of a classic one: it is the default, and queues of before there was a choice are the same.
    return {} if queue_type == "classic" else {"x-queue-type": queue_type}


async def _open(
    link: Link, queue: str, arguments: dict[str, Any], on_closed: Callable[[BaseException], None]
) -> tuple[Lane, int]:
    """A queue that exists with other limits, or is of another type, is taken as it is: it may hold requests."""
    try:
        return await _declared(link, queue, arguments, on_closed, passive=False)
    except ChannelClosedByBroker as error:
        if error.reply_code != _PRECONDITION_FAILED:
            raise
        log.log(
            logging.DEBUG if queue == DEAD_QUEUE else logging.WARNING,
            "the queue %s was declared otherwise; delete it to have it as configured: %s",
            queue,
            error,
        )
        return await _declared(link, queue, arguments, on_closed, passive=True)


async def _declared(
    link: Link, queue: str, arguments: dict[str, Any], on_closed: Callable[[BaseException], None], *, passive: bool
) -> tuple[Lane, int]:
    lane = await Lane(link, on_closed).open()
    ok = await lane.ask(
        lambda done: lane.channel.queue_declare(
            queue, durable=True, passive=passive, arguments=arguments, callback=done
        )
    )
    return lane, int(ok.method.consumer_count)


async def stop_consuming(lane: Lane, tag: str) -> None:
    """Ask for no further deliveries, and wait until none can come."""
    try:
        await lane.ask(lambda done: lane.channel.basic_cancel(tag, callback=done))
    except Exception as error:  # noqa: BLE001 (whatever closed the channel has stopped it as well)
        log.debug("the channel closed while its consumer was cancelled: %r", error)
