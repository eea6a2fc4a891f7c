# SPDX-License-Identifier: Apache-2.0
"""The bus over AMQP 0-9-1: one code path for RabbitMQ and for the embedded message_switch.

    connecting ──► declaring ──► up ──► lost ──► (pause) ──► connecting …          until `close`

Requests are transient messages: a caller waits for each, and sends it again over a new connection, where the server
knows its message id; nobody would wait for one that had outlived its caller on a disk. Publisher confirms are on for
requests, since only they tell of a full queue; replies and events are not waited for.

That a queue is full is believed of a new channel only: in RabbitMQ (3.10) a channel that meets a quorum queue while its
leader dies asks for that leader ever after, and refuses all requests to the queue until the leader's node is back.
"""

import asyncio
import logging
import random
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from pika import spec
from pika.channel import Channel
from pika.exceptions import AMQPError
from pika.spec import Basic, BasicProperties

from xenops.bus import meters
from xenops.bus.calls import Call, Calls
from xenops.bus.link import Lane, Link, close_link, explained, open_link, parameters
from xenops.bus.place import address_of, places
from xenops.bus.port import EVENTS_EXCHANGE, Answer, Message, Receive, Subscription, refuse_oversized
from xenops.bus.serving import QueueType, Served, Subscribed, consumers
from xenops.bus.untrusted import call_number, message
from xenops.errors import Busy, ConnectionLost, Fault, NoSuchService, SwitchUnreachable, TimedOut

log = logging.getLogger(__name__)
_REPLY_TO = "amq.rabbitmq.reply-to"
_CONNECT_TIMEOUT_S = 10.0
_PAUSE_S = (0.05, 2.0)  # between attempts: the first, and the longest
_PROBE_S = (0.05, 1.0)  # between looks at a queue that nobody serves
_VERDICT_S = 0.25  # for what became of such a look that was just under way when the call's time was over
_GOODBYE_S = 2.0
_RETRY_AFTER_MS = 500
_BELIEVED_S = 2.0  # how long the refusals of a connection are believed after a new channel has been asked
_MAX_BUFFERED = 32 << 20
_MAX_OWED = 1000
_SUBSCRIBER_LIMIT = 10000

_Under = Call[tuple[Message, "asyncio.Future[Message]"]]


class AmqpBus:
    """One process's connection to the switch at `url`, or to one of the nodes of a cluster (see `place`)."""

    def __init__(self, url: str, *, name: str = "", queue_type: QueueType = "classic") -> None:
        nodes = places(url)
        self.address, self.queue_type = address_of(nodes), queue_type
        self._nodes = [parameters(node, name) for node in nodes]
        self._link: Link | None = None
        self._lane: Lane | None = None  # requests and their replies, confirmed
        self._out: Lane | None = None  # replies and events, unconfirmed
        self._tag = 0
        self._doubted: list[_Under] | None = None  # refused, while a new channel is asked whether their queues are full
        self._believed_until = 0.0
        self._unsent: list[_Under] = []  # while the switch takes no requests, being short of memory or disk
        self._calls: Calls[tuple[Message, asyncio.Future[Message]]] = Calls()
        self._parts: list[Served | Subscribed] = []
        self._owed: deque[tuple[str, Message]] = deque(maxlen=_MAX_OWED)
        self._up = asyncio.Event()
        self._why: object = None  # there is no connection
        self._running: asyncio.Task[None] | None = None
        self._mending: set[asyncio.Task[None]] = set()
        self._closed = False

    async def connect(self, timeout_s: float | None = None) -> None:
        if self._running is None:
            self._running = asyncio.create_task(self._stay_connected(), name=f"bus {self.address}")
        try:
            async with asyncio.timeout(timeout_s):
                await self._up.wait()
        except TimeoutError:
            raise SwitchUnreachable(self.address, explained(self._why)) from None

    @property
    def product(self) -> str:
        """Which broker it is, in its own words; empty without a connection."""
        return "" if self._link is None else str((self._link.server_properties or {}).get("product", ""))

    async def close(self) -> None:
        self._closed = True
        for part in list(self._parts):
            await part.abandon()
        for task in (self._running, *self._mending):
            if task is not None:
                task.cancel()
        await asyncio.gather(*filter(None, (self._running, *self._mending)), return_exceptions=True)
        if self._link is not None:
            await close_link(self._link, _GOODBYE_S)
        for call in self._calls.all():
            self._end(call, ConnectionLost(self.address))

    async def call(self, queue: str, request: Message, *, timeout_s: float) -> Message:
        if self._closed:
            raise ConnectionLost(self.address)
        refuse_oversized(request)
        if self._link is not None and self._link.buffered > _MAX_BUFFERED:
            raise Busy("the connection to the switch", _RETRY_AFTER_MS)
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Message] = loop.create_future()
        call, now = self._calls.add(queue, (request, future), repeatable=bool(request.message_id))
        timer = loop.call_later(timeout_s, self._expired, call, timeout_s)
        if now and self._up.is_set():
            self._send(call)
            if len(self._calls) == 1 and self._link is not None:
                self._link.flush()  # nobody else whose request could go along
        try:
            return await future
        finally:
            timer.cancel()
            self._calls.drop(call)

    async def serve(self, queue: str, answer: Answer, *, prefetch: int = 256, limit: int = 10000) -> Subscription:
        return await self._begin(Served(self, queue, answer, prefetch, limit))

    async def servers(self, queue: str, *, limit: int = 10000) -> int:
        link = self._link
        return 0 if link is None or not self._up.is_set() else await consumers(link, queue, self.queue_type, limit)

    async def publish(self, routing_key: str, message: Message) -> None:
        link, out = self._link, self._out
        if link is None or out is None or not out.is_open or link.buffered > _MAX_BUFFERED:
            meters.dropped_events.inc()
            return
        properties = BasicProperties(content_type=message.content_type, headers=message.headers or None)
        out.channel.basic_publish(EVENTS_EXCHANGE, routing_key, message.body, properties)
        meters.events.inc()

    async def subscribe(
        self, patterns: list[str], receive: Receive, *, on_gap: Callable[[], None] | None = None
    ) -> Subscription:
        return await self._begin(Subscribed(self, patterns, receive, on_gap, _SUBSCRIBER_LIMIT))

    async def _begin(self, part: Served | Subscribed) -> Subscription:
        """Declare it now if we are connected, or else as soon as we are."""
        self._parts.append(part)
        if self._up.is_set() and self._link is not None:
            await self._declare(part, self._link)
        return part

    # The connection

    async def _stay_connected(self) -> None:
        pause, first = _PAUSE_S[0], True
        while True:
            try:
                link = await open_link(self._nodes[0], _CONNECT_TIMEOUT_S)
                async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                    await self._declare_all(link)
                pause = _PAUSE_S[0]
                if not first:
                    meters.reconnects.inc()
                log.info("connected to %s:%d", self._nodes[0].host, self._nodes[0].port)
                first = False
                why: object = await link.closed
            except (OSError, AMQPError, TimeoutError) as error:
                why = error
            self._why = why
            self._down()
            self._nodes.append(self._nodes.pop(0))
            log.log(
                logging.WARNING if pause == _PAUSE_S[0] else logging.DEBUG, "no connection to %s: %r", self.address, why
            )
            await asyncio.sleep(pause * random.uniform(0.5, 1.0))
            pause = min(pause * 1.7, _PAUSE_S[1])

    async def _declare_all(self, link: Link) -> None:
        self._link, link.on_relief = link, self._send_unsent
        lane = await self._open_requests(link)
        out = await self._open_out(link)
        for part in list(self._parts):
            await self._declare(part, link)
        self._out = out
        self._send_by(lane, self._calls.all())
        self._up.set()
        self._pay()

    async def _open_out(self, link: Link) -> Lane:
        out = await Lane(link, lambda error: self._out_closed(link, error)).open()
        await out.ask(lambda done: out.channel.exchange_declare(EVENTS_EXCHANGE, "topic", durable=True, callback=done))
        return out

    def _out_closed(self, link: Link, error: BaseException) -> None:
        """The broker would not carry a reply or an event: that one is lost, and none of those that others wait for."""

        async def again() -> None:
            self._out = await self._open_out(link)
            self._pay()

        self._mend(link, error, _PAUSE_S[0], again)

    def _pay(self) -> None:
        while self._owed and self._out is not None and self._out.is_open:
            self.reply(*self._owed.popleft())

    async def _open_requests(self, link: Link) -> Lane:
        """A channel for requests and the replies to them."""
        lane = await Lane(link, lambda error: link.abort()).open()
        lane.channel.add_on_return_callback(self._returned)
        await lane.confirm()
        await lane.ask(lambda done: lane.channel.basic_consume(_REPLY_TO, self._replied, auto_ack=True, callback=done))
        return lane

    def _send_by(self, lane: Lane, calls: list[_Under], tag: int = 0) -> None:
        """From now on all requests go by this channel, which has carried `tag` so far; these first."""
        self._lane, self._tag, lane.confirmed = lane, tag, self._confirmed
        self._unsent.clear()
        for call in calls:
            self._send(call)

    async def _declare(self, part: Served | Subscribed, link: Link) -> None:
        try:
            await part.declare(link)
        except AMQPError as error:
            if not link.is_open:
                return  # the next connection declares it
            self.failed(part, error)

    def _down(self) -> None:
        self._up.clear()
        if self._link is not None:
            self._link.abort()
        self._link = self._lane = self._out = None
        for call in self._calls.lost():
            self._end(call, ConnectionLost(self.address))

    # What the parts ask of us

    def reply(self, reply_to: str, reply: Message) -> None:
        """Send a reply, or keep it for the next connection; of too much the oldest goes, and whoever waits for it asks again."""
        if self._out is None or not self._out.is_open:
            self._owed.append((reply_to, reply))
            while sum(len(owed.body) for _, owed in self._owed) > _MAX_BUFFERED:
                self._owed.popleft()
            return
        properties = BasicProperties(reply.content_type, None, reply.headers or None, None, None, reply.correlation_id)
        self._out.channel.basic_publish("", reply_to, reply.body, properties)
        meters.replies.inc()

    def failed(self, part: Served | Subscribed, error: BaseException) -> None:
        """The broker closed the channel of this part: declare it again after a while."""
        link = self._link

        async def again() -> None:
            if link is not None and part in self._parts:
                await self._declare(part, link)

        self._mend(link, error, _PAUSE_S[1], again)

    def _mend(
        self, link: Link | None, error: BaseException, pause_s: float, again: Callable[[], Awaitable[None]]
    ) -> None:
        if link is None or link is not self._link or not link.is_open or self._closed:
            return  # the next connection has everything again
        log.warning("the switch at %s closed a channel, which is opened again: %s", self.address, error)

        async def mend() -> None:
            await asyncio.sleep(pause_s * random.uniform(0.5, 1.0))
            try:
                if link.is_open:
                    await again()
            except AMQPError as error:
                log.debug("it closed again: %r", error)  # and is mended again for that

        self._start(mend())

    def forget(self, part: Served | Subscribed) -> None:
        """Do not declare this part again."""
        if part in self._parts:
            self._parts.remove(part)

    def _start(self, mending: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(mending)
        self._mending.add(task)
        task.add_done_callback(self._mending.discard)

    # Calls

    def _send(self, call: _Under) -> None:
        lane = self._lane
        if lane is None or not lane.is_open:
            return  # the next connection sends it
        if lane.link.short:
            self._unsent.append(call)
            return
        self._publish(lane, call)
        self._tag += 1
        self._calls.sent(call, self._tag)
        meters.requests.inc()

    def _send_unsent(self) -> None:
        unsent, self._unsent = self._unsent, []
        for call in unsent:
            if self._calls.waits(call):
                self._send(call)

    def _publish(self, lane: Lane, call: _Under) -> None:
        request = call.what[0]
        properties = BasicProperties(
            request.content_type, None, request.headers or None, None, None, str(call.number), _REPLY_TO, None,
            request.message_id, int(time.time()),
        )  # fmt: skip
        lane.channel.basic_publish("", call.queue, request.body, properties, mandatory=True)

    def _replied(self, _: Channel, __: Basic.Deliver, properties: BasicProperties, body: bytes) -> None:
        call = self._calls.answered(call_number(properties))
        if call is not None and not call.what[1].done():
            reply = message(properties, body)
            reply.correlation_id = call.what[0].correlation_id
            call.what[1].set_result(reply)

    def _confirmed(self, method: Any) -> None:
        if isinstance(method, spec.Basic.Ack):
            released = self._calls.confirmed(method.delivery_tag, multiple=bool(method.multiple))
        else:
            refused, released = self._calls.refused(method.delivery_tag, multiple=bool(method.multiple))
            self._refused(refused)
        for call in released:
            self._send(call)

    def _refused(self, calls: list[_Under]) -> None:
        link = self._link
        if self._doubted is not None:
            self._doubted += calls
        elif link is not None and calls and asyncio.get_running_loop().time() >= self._believed_until:
            self._doubted = list(calls)
            self._start(self._ask_again(calls[0], link))
        else:
            self._end_busy(calls)

    async def _ask_again(self, call: _Under, link: Link) -> None:
        """Ask a new channel whether the queue is full; if it is not, all requests go by that channel from now on."""
        try:
            async with asyncio.timeout(_CONNECT_TIMEOUT_S):
                lane = await self._open_requests(link)
                answer = await lane.ask(lambda done: self._ask_by(lane, call, done))
        except (AMQPError, TimeoutError) as error:
            log.debug("whether %s is full cannot be told: %r", call.queue, error)
            self._doubted = None
            link.abort()  # the next connection sends them
            return
        doubted, self._doubted = self._doubted or [], None
        if link is not self._link or self._lane is None:
            return
        self._believed_until = asyncio.get_running_loop().time() + _BELIEVED_S
        if isinstance(answer, spec.Basic.Nack):
            lane.close()
            self._end_busy(doubted)
            return
        log.warning("a channel of the switch at %s refused what another one takes: it is made anew", self.address)
        self._lane.close()
        for lost in self._calls.lost():
            self._end(lost, ConnectionLost(self.address))
        call.sent = True
        self._send_by(lane, [other for other in self._calls.all() if other is not call or other.returned], tag=1)

    def _ask_by(self, lane: Lane, call: _Under, done: Callable[[Any], None]) -> None:
        lane.confirmed = done
        self._publish(lane, call)

    def _end_busy(self, calls: list[_Under]) -> None:
        for call in calls:
            self._end(call, Busy(call.queue, _RETRY_AFTER_MS))

    def _returned(self, _: Channel, __: Basic.Return, properties: BasicProperties, ___: bytes) -> None:
        queue = self._calls.returned(call_number(properties))
        if queue is not None:
            asyncio.get_running_loop().call_later(random.uniform(*_PROBE_S), self._probe, queue)

    def _probe(self, queue: str) -> None:
        call = self._calls.probe(queue)
        if call is not None:
            self._send(call)

    def _expired(self, call: _Under, timeout_s: float) -> None:
        if self._calls.probes(call):  # whether somebody has heard it this time, the broker is about to say
            asyncio.get_running_loop().call_later(_VERDICT_S, self._over, call, timeout_s)
        else:
            self._over(call, timeout_s)

    def _over(self, call: _Under, timeout_s: float) -> None:
        unheard = call.returned or not call.sent
        if not call.sent and self._link is not None and self._link.short:
            self._end(call, Busy(f"the switch ({self._link.short})", _RETRY_AFTER_MS))
        else:
            self._end(call, NoSuchService(call.queue) if unheard else TimedOut(call.queue, timeout_s))

    def _end(self, call: _Under, fault: Fault) -> None:
        self._calls.drop(call)
        if not call.what[1].done():
            call.what[1].set_exception(fault)
