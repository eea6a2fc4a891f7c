# SPDX-License-Identifier: Apache-2.0
"""The bus within one process: for tests of services and clients without a broker.

Every `MemoryBus` is one connection to a `MemorySwitch` that several share; they keep the promises of the port. A test
takes a connection away with `disconnect` and gives it back with `reconnect`; a call waits no real time for that.
"""

import asyncio
import itertools
import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from xenops.bus.port import DEAD_QUEUE, Answer, Message, Receive, Subscription, answered, refuse_oversized
from xenops.errors import Busy, ConnectionLost, NoSuchService, TimedOut

log = logging.getLogger(__name__)
_RETRY_AFTER_MS = 500
_ADDRESS = "memory"


@dataclass(eq=False)
class _Queue:
    limit: int
    waiting: deque[Message] = field(default_factory=deque)
    servers: deque["_Served"] = field(default_factory=deque)

    def hand_out(self) -> None:
        """Give what waits to the servers in turn, as far as each will take it."""
        tries = len(self.servers)
        while self.waiting and tries:
            server = self.servers[0]
            self.servers.rotate(-1)
            if server.has_room:
                server.take(self.waiting.popleft())
                tries = len(self.servers)
            else:
                tries -= 1


class MemorySwitch:
    """What the buses of one test share."""

    def __init__(self) -> None:
        self.queues: dict[str, _Queue] = {}
        self.subscribed: list[_Subscribed] = []
        self.callers: dict[str, asyncio.Future[Message]] = {}  # by reply address
        self.dead: list[Message] = []
        self.appeared = asyncio.Event()

    def declare(self, queue: str, limit: int) -> _Queue:
        """The queue, made if there is none."""
        if queue not in self.queues:
            self.queues[queue] = _Queue(limit)
            self.appeared.set()
            self.appeared = asyncio.Event()
        return self.queues[queue]

    def put(self, queue: str, request: Message) -> None:
        """Add a request, or refuse it."""
        found = self.queues[queue]
        if len(found.waiting) >= found.limit:
            raise Busy(queue, _RETRY_AFTER_MS)
        found.waiting.append(request)
        found.hand_out()

    def reply(self, reply_to: str, reply: Message) -> None:
        """Hand a reply to its caller, if it still waits."""
        caller = self.callers.get(reply_to)
        if caller is not None and not caller.done():
            caller.set_result(reply)


class _Delivery:
    """A request in the hands of its server."""

    def __init__(self, served: "_Served", message: Message) -> None:
        self.message = message
        self.accepted = False
        self._served = served

    def accept(self) -> None:
        if not self.accepted:
            self.accepted = True
            self._served.settled(self)


class _Served:
    """One queue whose requests are answered over one bus."""

    def __init__(self, bus: "MemoryBus", queue: str, answer: Answer, prefetch: int, limit: int) -> None:
        self._bus, self._name, self._answer, self._prefetch, self._limit = bus, queue, answer, prefetch, limit
        self._queue: _Queue | None = None
        self._unaccepted: dict[_Delivery, None] = {}
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def has_room(self) -> bool:
        return len(self._unaccepted) < self._prefetch

    def up(self) -> None:
        """Declare the queue and take what waits."""
        self._queue = self._bus.switch.declare(self._name, self._limit)
        self._queue.servers.append(self)
        self._queue.hand_out()

    def down(self) -> None:
        """The connection is lost: what was not accepted goes back to its place at the head of the queue."""
        queue, self._queue = self._queue, None
        if queue is None:
            return
        queue.servers.remove(self)
        back = [replace(delivery.message, redelivered=True) for delivery in self._unaccepted]
        self._unaccepted.clear()
        queue.waiting.extendleft(reversed(back))
        queue.hand_out()

    def take(self, message: Message) -> None:
        """Start answering a request."""
        delivery = _Delivery(self, message)
        self._unaccepted[delivery] = None
        task = asyncio.get_running_loop().create_task(self._attend(delivery))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def settled(self, delivery: _Delivery) -> None:
        """It will not come again, and there is room for another."""
        self._unaccepted.pop(delivery, None)
        if self._queue is not None:
            self._queue.hand_out()

    async def _attend(self, delivery: _Delivery) -> None:
        request = delivery.message
        try:
            reply = answered(await self._answer(delivery))
        except Exception:  # the edge: a request that breaks its server must not come back to it for ever
            log.exception("a request to %s broke its server and is now in %s", self._name, DEAD_QUEUE)
            if delivery in self._unaccepted:
                self._bus.switch.dead.append(request)
                delivery.accept()
            return
        current = delivery.accepted or delivery in self._unaccepted
        if reply is not None and request.reply_to and current:
            reply.correlation_id = request.correlation_id
            self._bus.switch.reply(request.reply_to, reply)
        delivery.accept()

    async def cancel(self) -> None:
        """Take no further request; those under way are answered."""
        queue, self._queue = self._queue, None
        if queue is not None:
            queue.servers.remove(self)
        self._bus.forget(self)

    async def abandon(self) -> None:
        """Stop everything under way."""
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.down()


class _Subscribed:
    """Some topics whose events go to one receiver."""

    def __init__(self, bus: "MemoryBus", patterns: list[str], receive: Receive, gap: Callable[[], None] | None) -> None:
        self._bus, self._patterns, self._receive, self._on_gap = bus, [p.split(".") for p in patterns], receive, gap
        self._seen = False

    def up(self) -> None:
        """Listen; on any connection but the first, events may have been missed."""
        self._bus.switch.subscribed.append(self)
        if self._seen and self._on_gap is not None:
            self._on_gap()
        self._seen = True

    def down(self) -> None:
        """The connection is lost."""
        if self in self._bus.switch.subscribed:
            self._bus.switch.subscribed.remove(self)

    def offer(self, message: Message) -> None:
        """An event was published: receive it soon if a pattern matches."""
        words = message.routing_key.split(".")
        if any(matches(pattern, words) for pattern in self._patterns):
            asyncio.get_running_loop().call_soon(self._hand_over, message)

    def _hand_over(self, message: Message) -> None:
        if self not in self._bus.switch.subscribed:
            return
        try:
            self._receive(message)
        except Exception:  # the edge: the others' events must go on
            log.exception("an event broke its receiver")

    async def cancel(self) -> None:
        """Receive nothing more."""
        self.down()
        self._bus.forget(self)

    async def abandon(self) -> None:
        """Receive nothing more."""
        self.down()


class MemoryBus:
    """One connection to a `MemorySwitch`."""

    _numbers = itertools.count(1)

    def __init__(self, switch: MemorySwitch) -> None:
        self.switch = switch
        self._parts: list[_Served | _Subscribed] = []
        self._calls: dict[asyncio.Future[Message], bool] = {}  # and whether it may be sent again
        self._up = asyncio.Event()
        self._closed = False

    async def connect(self, timeout_s: float | None = None) -> None:
        if not self._up.is_set():
            self.reconnect()

    def reconnect(self) -> None:
        """Connect, and declare everything again."""
        self._up.set()
        for part in self._parts:
            part.up()

    def disconnect(self) -> None:
        """Lose the connection, as if a cable had been pulled."""
        self._up.clear()
        for part in self._parts:
            part.down()
        for reply, repeatable in self._calls.items():
            if not reply.done():
                reply.set_exception(_Again() if repeatable else ConnectionLost(_ADDRESS))

    async def close(self) -> None:
        self._closed = True
        for part in list(self._parts):
            await part.abandon()
        self._up.clear()
        for reply in self._calls:
            if not reply.done():
                reply.set_exception(ConnectionLost(_ADDRESS))

    async def call(self, queue: str, request: Message, *, timeout_s: float) -> Message:
        if self._closed:
            raise ConnectionLost(_ADDRESS)
        refuse_oversized(request)
        reached = False
        try:
            async with asyncio.timeout(timeout_s):
                while True:
                    await self._up.wait()
                    if queue not in self.switch.queues:
                        await self.switch.appeared.wait()
                        continue
                    reached = True
                    try:
                        return await self._ask(queue, request)
                    except _Again:
                        continue
        except TimeoutError:
            raise TimedOut(queue, timeout_s) if reached else NoSuchService(queue) from None

    async def _ask(self, queue: str, request: Message) -> Message:
        address = f"reply.{next(self._numbers)}"
        reply: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self.switch.callers[address], self._calls[reply] = reply, bool(request.message_id)
        try:
            self.switch.put(queue, replace(request, reply_to=address, correlation_id=address, routing_key=queue))
            return replace(await reply, correlation_id=request.correlation_id)
        finally:
            del self.switch.callers[address], self._calls[reply]

    async def serve(self, queue: str, answer: Answer, *, prefetch: int = 256, limit: int = 10000) -> Subscription:
        return self._begin(_Served(self, queue, answer, prefetch, limit))

    async def servers(self, queue: str, *, limit: int = 10000) -> int:
        return len(self.switch.declare(queue, limit).servers) if self._up.is_set() else 0

    async def publish(self, routing_key: str, message: Message) -> None:
        if self._up.is_set():
            event = replace(message, routing_key=routing_key)
            for subscribed in list(self.switch.subscribed):
                subscribed.offer(event)

    async def subscribe(
        self, patterns: list[str], receive: Receive, *, on_gap: Callable[[], None] | None = None
    ) -> Subscription:
        return self._begin(_Subscribed(self, patterns, receive, on_gap))

    def _begin(self, part: _Served | _Subscribed) -> Subscription:
        self._parts.append(part)
        if self._up.is_set():
            part.up()
        return part

    def forget(self, part: _Served | _Subscribed) -> None:
        """Do not declare this part again."""
        if part in self._parts:
            self._parts.remove(part)


class _Again(Exception):
    """The connection was lost, and the request may be sent again."""


def matches(pattern: list[str], words: list[str]) -> bool:
    """Whether a topic matches: `*` stands for one word, `#` for any number of them."""
    if not pattern:
        return not words
    if pattern[0] == "#":
        return any(matches(pattern[1:], words[n:]) for n in range(len(words) + 1))
    return bool(words) and pattern[0] in ("*", words[0]) and matches(pattern[1:], words[1:])
