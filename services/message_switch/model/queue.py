# SPDX-License-Identifier: Apache-2.0
"""A queue: messages that wait, messages in the hands of consumers, and whose turn it is.

A message is in exactly one of three places: `ready`, `held` (delivered and not yet settled), or gone.
"""

from collections import deque
from typing import Protocol

from message_switch.model.arguments import QueueArguments
from message_switch.model.line import Line, Ranks, Waiting
from message_switch.model.message import Entry, Message

FOREVER = float("inf")


class Sink(Protocol):
    """Where a consumer's messages go: one channel of one connection."""

    def deliver(self, consumer: "Consumer", entry: Entry) -> None:
        """Send it; `writable` was true a moment ago."""

    def cancelled(self, consumer: "Consumer") -> None:
        """Its queue is gone."""


class Gate(Protocol):
    """Says whether a connection takes more: a slow reader must not fill our memory."""

    writable: bool


class Consumer:
    """Somebody who takes messages off one queue, at most `prefetch` of them unsettled (0: any number)."""

    __slots__ = ("exclusive", "gate", "no_ack", "prefetch", "queue", "sink", "tag", "unsettled")

    def __init__(
        self, tag: str, sink: Sink, gate: Gate, *, no_ack: bool = False, prefetch: int = 0, exclusive: bool = False
    ) -> None:
        self.tag = tag
        self.sink = sink
        self.gate = gate
        self.no_ack = no_ack
        self.prefetch = prefetch
        self.exclusive = exclusive
        self.unsettled = 0
        self.queue: Queue | None = None


class Upkeep(Protocol):
    """What a queue needs of the broker it belongs to."""

    now: float

    def discard(self, queue: "Queue", entry: Entry, reason: str) -> None:
        """Dead-letter it if the queue says so; it is gone from here in any case."""

    def settled(self, queue: "Queue", entry: Entry) -> None:
        """It is done with, as far as this queue is concerned."""

    def alarm(self, at: float) -> None:
        """Ask for a sweep at this time."""


class Queue:
    """See the module; `owner` is the connection of an exclusive queue."""

    def __init__(
        self,
        name: str,
        upkeep: Upkeep,
        *,
        durable: bool = False,
        auto_delete: bool = False,
        owner: object | None = None,
        arguments: QueueArguments | None = None,
        server_named: bool = False,
    ) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.owner = owner
        self.arguments = arguments or QueueArguments()
        self.server_named = server_named
        most = self.arguments.max_priority
        self.ready: Waiting = Line() if most is None else Ranks(most)
        self.ready_bytes = 0
        self.held: dict[Entry, None] = {}
        self.consumers: deque[Consumer] = deque()
        self.used_at = upkeep.now
        self.served = False  # somebody has been here to consume, since the switch started
        self.deleted = False
        self._upkeep = upkeep
        self._position = 0

    @property
    def kept(self) -> bool:
        """Whether it survives a restart: an exclusive queue never does, whatever it was declared as."""
        return self.durable and self.owner is None

    def refuses(self) -> bool:
        """Whether a publisher must be told no."""
        limits = self.arguments
        return limits.overflow == "reject-publish" and (
            (limits.max_length is not None and len(self.ready) >= limits.max_length)
            or (limits.max_length_bytes is not None and self.ready_bytes >= limits.max_length_bytes)
        )

    def push(self, message: Message, at: float | None = None) -> Entry:
        """Take a message in: straight to a consumer if nothing waits before it."""
        at = self._upkeep.now if at is None else at
        entry = Entry(message, self._position, at, self._expiry(message, at))
        self._position += 1
        if not self.ready and self.consumers and (consumer := self._next()) is not None:
            self._hand(consumer, entry)
            return entry
        self.ready.append(entry)
        self.ready_bytes += len(message.body)
        if entry.expires_at < FOREVER:
            self._upkeep.alarm(entry.expires_at)
        self._trim()
        return entry

    def pump(self) -> None:
        """Hand out what waits, in turn, as long as somebody takes it."""
        while self.ready:
            if self.ready[0].expires_at <= self._upkeep.now:
                self._upkeep.discard(self, self._pop(), "expired")
                continue
            consumer = self._next()
            if consumer is None:
                self._watch()
                return
            self._hand(consumer, self._pop())

    def get(self, *, no_ack: bool) -> Entry | None:
        """Take one message without being a consumer."""
        self.used_at = self._upkeep.now
        self.expire()
        if not self.ready:
            return None
        entry = self._pop()
        if no_ack:
            self._upkeep.settled(self, entry)
        else:
            self.held[entry] = None
        self.expire()
        self._watch()
        return entry

    def settle(self, entry: Entry) -> None:
        """A held message is done with."""
        if self.held.pop(entry, self) is None:
            self._upkeep.settled(self, entry)

    def reject(self, entry: Entry) -> None:
        """A held message is not wanted, not even again."""
        if self.held.pop(entry, self) is None:
            self._upkeep.discard(self, entry, "rejected")

    def requeue(self, entries: list[Entry]) -> None:
        """Held messages come back to where they stood, marked as delivered before; of too many the first go. The caller pumps."""
        for entry in sorted(entries, key=lambda e: e.position, reverse=True):
            if self.held.pop(entry, self) is not None:
                continue
            entry.redelivered = True
            self.ready.put_back(entry)
            self.ready_bytes += len(entry.message.body)
            if entry.expires_at < FOREVER:
                self._upkeep.alarm(entry.expires_at)
        self._trim()

    def purge(self) -> int:
        """Forget what waits; how many that were."""
        count = len(self.ready)
        while self.ready:
            self._upkeep.settled(self, self._pop())
        return count

    def expire(self) -> None:
        """Let go of what is too old, from the head on."""
        while self.ready and self.ready[0].expires_at <= self._upkeep.now:
            self._upkeep.discard(self, self._pop(), "expired")

    def due_at(self) -> float:
        """When something here wants to be looked at again."""
        due = self.ready[0].expires_at if self.ready else FOREVER
        if self.arguments.expires is not None and not self.consumers:
            due = min(due, self.used_at + self.arguments.expires / 1000)
        return due

    def add(self, consumer: Consumer) -> None:
        """A new consumer, last in the round."""
        consumer.queue = self
        self.served = True
        self.consumers.append(consumer)

    def remove(self, consumer: Consumer) -> None:
        """What it holds stays held: that is for its channel to settle."""
        self.consumers.remove(consumer)
        self.used_at = self._upkeep.now
        self._upkeep.alarm(self.due_at())

    def _next(self) -> Consumer | None:
        consumers = self.consumers
        for _ in range(len(consumers)):
            consumer = consumers[0]
            consumers.rotate(-1)
            if consumer.gate.writable and (not consumer.prefetch or consumer.unsettled < consumer.prefetch):
                return consumer
        return None

    def _hand(self, consumer: Consumer, entry: Entry) -> None:
        if consumer.no_ack:
            self._upkeep.settled(self, entry)
        else:
            self.held[entry] = None
            consumer.unsettled += 1
        consumer.sink.deliver(consumer, entry)

    def _watch(self) -> None:
        """Whoever has come to the head may have a time limit that nobody has looked at while it stood behind others."""
        if self.ready and self.ready[0].expires_at < FOREVER:
            self._upkeep.alarm(self.ready[0].expires_at)

    def _pop(self) -> Entry:
        entry = self.ready.popleft()
        self.ready_bytes -= len(entry.message.body)
        return entry

    def _expiry(self, message: Message, at: float) -> float:
        ttl, own = self.arguments.message_ttl, message.ttl_ms
        if ttl is None and own is None:
            return FOREVER
        return at + min(FOREVER if ttl is None else ttl, FOREVER if own is None else own) / 1000

    def _trim(self) -> None:
        limits = self.arguments
        if limits.overflow != "drop-head":
            return  # publishers were told no; what was taken in (it may have come back from a consumer) stays
        if limits.max_length is not None:
            while len(self.ready) > limits.max_length:
                self._upkeep.discard(self, self._pop(), "maxlen")
        if limits.max_length_bytes is not None:
            while self.ready and self.ready_bytes > limits.max_length_bytes:
                self._upkeep.discard(self, self._pop(), "maxlen")
