# SPDX-License-Identifier: Apache-2.0
"""The trace: copies of what is published and delivered, on the exchange and in the form of RabbitMQ's firehose.

It is on exactly while a queue is bound to `amq.rabbitmq.trace`, which only an administrator may do: a trace shows everybody's
messages. Whoever traced and died leaves nothing behind, for an exclusive queue goes with its connection.

A copy is never waited for, never written down, and counts for nobody's memory alarm: each queue holds no more than `COPIES_MAX`
copies and `BYTES_MAX` bytes of bodies, and what is beyond that is dropped and counted. What came from the trace is not traced.

Source: RabbitMQ, "Firehose Tracer". Pure.
"""

from collections.abc import Callable, Collection
from typing import Any, Protocol

from message_switch import properties
from message_switch.access.users import User
from message_switch.frames import field
from message_switch.model.exchange import Topic
from message_switch.model.faults import ConnectionFault
from message_switch.model.message import Entry, Message
from message_switch.model.queue import Queue

TRACE = "amq.rabbitmq.trace"
COPIES_MAX, BYTES_MAX = 10_000, 16 << 20
_NODE, _VHOST = "message-switch", "/"
_KEY_MAX = 255


class Peer(Protocol):
    """The connection that a channel belongs to."""

    name: str


class Origin(Protocol):
    """The channel that something came in by, or went out by."""

    number: int
    owner: Peer
    user: User


class Copy(Message):
    """A message about a message."""

    __slots__ = ()

    @property
    def size(self) -> int:
        """Nothing, as far as the memory alarm is concerned: copies have a bound of their own."""
        return 0


class Trace:
    """See the module; `routed` says which queues a message would go to."""

    def __init__(self, routed: Callable[[Message], Collection[str]]) -> None:
        self.exchange = Topic(TRACE, internal=True)
        self.dropped = 0
        self._routed = routed

    @property
    def on(self) -> bool:
        """Whether anybody is there to see it."""
        return bool(self.exchange.bindings)

    def published(self, message: Message, origin: Origin) -> None:
        """Somebody publishes this; it is not on its way yet, so that a trace has it before its deliveries."""
        self._copy(f"publish.{message.exchange}", message, origin, routed_queues=list(self._routed(message)))

    def delivered(self, entry: Entry, queue: Queue, origin: Origin) -> None:
        """A message went from a queue to this consumer."""
        if entry.message.exchange != TRACE:
            self._copy(f"deliver.{queue.name}", entry.message, origin, redelivered=int(entry.redelivered))

    def _copy(self, key: str, message: Message, origin: Origin, **more: object) -> None:
        queues = [to for to in self.exchange.route(_fitting(key)) if isinstance(to, Queue)]
        if not queues:
            return
        values = {
            "exchange_name": message.exchange,
            "routing_keys": [message.routing_key],
            "node": _NODE,
            "vhost": _VHOST,
            "connection": origin.owner.name,
            "channel": origin.number,
            "user": origin.user.name,
            **more,
        }
        rows = {name.encode(): field(value) for name, value in values.items()}
        encoded = properties.join_table({**rows, b"properties": _described(message)})
        header = properties.join({properties.HEADERS: encoded})
        copy = Copy(TRACE, _fitting(key), header, message.body)
        for queue in queues:
            if queue.refuses() or not _has_room(queue, len(copy.body)):
                self.dropped += 1
            else:
                queue.push(copy)


def _has_room(queue: Queue, size: int) -> bool:
    if len(queue.ready) + len(queue.held) >= COPIES_MAX:
        return False
    held = sum(len(entry.message.body) for entry in queue.held)
    return queue.ready_bytes + held + size <= BYTES_MAX


def _fitting(key: str) -> str:
    """A routing key has room for 255 bytes, and names may fill that by themselves."""
    return key.encode()[:_KEY_MAX].decode(errors="ignore")


def _described(message: Message) -> bytes:
    """The message's properties as one value of a field table; its headers stay as their publisher wrote them."""
    parts = properties.split(message.header)
    rows: dict[bytes, bytes] = {}
    for bit, raw in parts.items():
        if bit != properties.HEADERS:
            rows[properties.NAMES[bit].encode()] = field(_value(bit, raw))
            continue
        try:
            properties.split_table(raw)
        except ConnectionFault:
            continue  # a table that cannot be read cannot be passed on
        rows[b"headers"] = b"F" + raw
    return b"F" + properties.join_table(rows)


def _value(bit: int, raw: bytes) -> Any:
    if bit in properties.NUMBERS:
        return int.from_bytes(raw, "big")
    return raw[1:].decode(errors="replace")
