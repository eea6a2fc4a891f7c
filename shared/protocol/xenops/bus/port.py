# SPDX-License-Identifier: Apache-2.0
"""What services and clients ask of a bus: `call`, `serve`, `publish`, `subscribe`.

Promises that every bus keeps, and that tests/contracts checks of each:
- services and clients start in any order; a lost connection is made again and everything is declared again;
- `call` ends with the reply, with a named fault, or with `TimedOut`: it never hangs;
- a request whose server died before acknowledging it is delivered again, marked `redelivered`;
- a queue at its limit refuses with `Busy`; nothing is dropped silently;
- bytes are passed on untouched: what they mean is `xenops.wire`'s business.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from xenops.errors import AnswerTooLong, BadRequest

MSGPACK = "application/msgpack"
JSON = "application/json"
EVENTS_EXCHANGE = "xenops.events"
DEAD_QUEUE = "xenops.dead"
MAX_BODY = 16 << 20  # a broker closes the channel of who sends more, and delivers again what was to be answered there
UNREADABLE = "x-unreadable"  # the only header of a message whose headers could not be decoded


@dataclass(slots=True)
class Message:
    """One message with the AMQP properties that the contract uses; `headers` are untrusted when they come in."""

    body: bytes
    content_type: str = MSGPACK
    correlation_id: str | None = None
    reply_to: str | None = None
    message_id: str | None = None
    headers: dict[str, Any] = field(default_factory=dict)
    routing_key: str = ""
    redelivered: bool = False


def refuse_oversized(request: Message) -> None:
    """Raise `BadRequest` for one that no broker would carry."""
    if len(request.body) > MAX_BODY:
        raise BadRequest("request", f"is {len(request.body)} bytes long, and at most {MAX_BODY} are carried")


def answered(reply: Message | None) -> Message | None:
    """The reply, as far as a broker would carry it: raises `AnswerTooLong`."""
    if reply is not None and len(reply.body) > MAX_BODY:
        raise AnswerTooLong(len(reply.body), MAX_BODY)
    return reply


class Delivery(Protocol):
    """A request in the hands of its server."""

    message: Message

    def accept(self) -> None:
        """Acknowledge it to the bus: from here on it is ours and will not come again. Idempotent."""


class Subscription(Protocol):
    """Something that goes on until it is cancelled."""

    async def cancel(self) -> None:
        """Stop; returns when no further message will be handed over. Idempotent."""


Answer = Callable[[Delivery], Awaitable[Message | None]]
Receive = Callable[[Message], None]


class Bus(Protocol):
    """One process's connection to the switch."""

    async def connect(self, timeout_s: float | None = None) -> None:
        """Return once connected; keep trying until `timeout_s` is over, then raise `SwitchUnreachable`."""

    async def close(self) -> None:
        """Say goodbye; calls under way end with `ConnectionLost`. Idempotent."""

    async def call(self, queue: str, request: Message, *, timeout_s: float) -> Message:
        """Send a request and wait for its reply. Raises `BadRequest` for one of more than `MAX_BODY`.

        A request with a `message_id` is sent again after a reconnection, since its server remembers the first outcome;
        one without ends with `ConnectionLost`. While nobody has declared `queue`, it is tried again until `timeout_s`
        is over, and then ends with `NoSuchService`.
        """

    async def serve(self, queue: str, answer: Answer, *, prefetch: int = 256, limit: int = 10000) -> Subscription:
        """Declare the durable `queue` and hand every request to `answer`, side by side, at most `prefetch` at once.

        What `answer` returns is sent to the request's `reply_to`; a delivery it has not accepted by then is
        acknowledged after that. An `answer` that raises, or returns more than `MAX_BODY`, has its delivery
        dead-lettered. More than `limit` waiting requests are refused with `Busy`.
        """

    async def servers(self, queue: str, *, limit: int = 10000) -> int:
        """Declare the durable `queue`, as `serve` will, and tell how many serve it now; 0 without a connection."""

    async def publish(self, routing_key: str, message: Message) -> None:
        """Send an event to the topic exchange; while disconnected it is dropped and counted, as events coalesce."""

    async def subscribe(
        self, patterns: list[str], receive: Receive, *, on_gap: Callable[[], None] | None = None
    ) -> Subscription:
        """Hand over every event that matches a topic pattern (`*` one word, `#` any number).

        `on_gap` is called whenever events may have been missed, such as after a reconnection.
        """
