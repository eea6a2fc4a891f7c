# SPDX-License-Identifier: Apache-2.0
"""The switch's own service: it answers `SWITCH` on a queue of its own, to administrators alone.

The queue belongs to no connection, so none can consume from it, bind it or delete it; `Switch.may_publish` is the one place
that says who may write to it. What comes by way of a dead-letter exchange was written by nobody in particular: it is dropped.
"""

import asyncio

from message_switch import clock, properties
from message_switch.frames import short
from message_switch.model.arguments import QueueArguments
from message_switch.model.broker import Broker
from message_switch.model.message import Entry
from message_switch.model.message import Message as Stored
from message_switch.model.queue import Consumer, Queue
from xenops.bus.port import JSON, MSGPACK, Message
from xenops.interfaces.switch import SWITCH, SWITCH_QUEUE, QueueStat
from xenops.rpc import Dispatcher
from xenops.types.record import UNSET

_CONTENT_TYPE, _CORRELATION_ID = 15, 10
_WAITING_MAX, _AT_ONCE = 1000, 16


class SwitchService:
    """`SWITCH` as this switch performs it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    async def queues(self, prefix: str = "") -> list[QueueStat]:
        """See `SWITCH`."""
        now, queues = clock.now(), self._broker.queues
        return [_stat(queues[name], now) for name in sorted(queues) if name.startswith(prefix) and name != SWITCH_QUEUE]


class _Request:
    """A delivery as the dispatcher wants it."""

    def __init__(self, message: Message) -> None:
        self.message = message

    def accept(self) -> None:
        """It is settled when its answer goes out."""


class Administration:
    """The consumer of the switch's own queue; see `Sink` and `Gate`."""

    writable = True

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._dispatcher = Dispatcher([(SWITCH, SwitchService(broker))])
        self._under_way: set[asyncio.Task[None]] = set()
        limits = QueueArguments(max_length=_WAITING_MAX, overflow="reject-publish")
        self._queue = Queue(SWITCH_QUEUE, broker, owner=self, arguments=limits, server_named=True)
        broker.queues[SWITCH_QUEUE] = self._queue
        self._consumer = Consumer(SWITCH_QUEUE, self, self, prefetch=_AT_ONCE)
        broker.consume(self._queue, self._consumer)

    def deliver(self, consumer: Consumer, entry: Entry) -> None:
        """Answer it."""
        task = asyncio.get_running_loop().create_task(self._answer(entry), name="administration")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    def cancelled(self, consumer: Consumer) -> None:
        """Nobody can delete the queue."""

    async def _answer(self, entry: Entry) -> None:
        try:
            if entry.message.deaths:
                return
            parts = properties.split(entry.message.header)
            kind = JSON if properties.text(parts, _CONTENT_TYPE) == JSON else MSGPACK
            reply = await self._dispatcher.answer(_Request(Message(entry.message.body, content_type=kind)))
            reply_to = properties.text(parts, properties.REPLY_TO)
            if reply is not None and reply_to:
                self._send(reply_to, reply, parts.get(_CORRELATION_ID))
        finally:
            self._consumer.unsettled -= 1
            self._broker.now = clock.now()
            self._queue.settle(entry)
            self._queue.pump()

    def _send(self, reply_to: str, reply: Message, correlation_id: bytes | None) -> None:
        parts = {_CONTENT_TYPE: short(reply.content_type)}
        if correlation_id is not None:
            parts[_CORRELATION_ID] = correlation_id
        self._broker.now = clock.now()
        self._broker.publish(Stored("", reply_to, properties.join(parts), reply.body), None)


def _stat(queue: Queue, now: float) -> QueueStat:
    came = [*([queue.ready.oldest_at()] if queue.ready else []), *([next(iter(queue.held)).at] if queue.held else [])]
    return QueueStat(
        name=queue.name,
        ready=len(queue.ready),
        unacked=len(queue.held),
        consumers=len(queue.consumers),
        durable=queue.durable,
        exclusive=queue.owner is not None,
        served=queue.served,
        oldest_s=max(0.0, now - min(came)) if came else UNSET,
    )
