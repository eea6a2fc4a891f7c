# SPDX-License-Identifier: Apache-2.0
"""A message as it was published, and one queue's hold on it."""

from collections.abc import Callable

import msgspec


class Death(msgspec.Struct, array_like=True, frozen=True):
    """One row of the `x-death` header: how often a message was dead-lettered from a queue, and why."""

    queue: str
    reason: str
    count: int
    at: float
    exchange: str
    routing_key: str


class Message:
    """Its bytes are the publisher's: `header` is the content header's properties, untouched, `body` the joined frames."""

    __slots__ = (
        "body",
        "deaths",
        "exchange",
        "header",
        "holds",
        "id",
        "noted",
        "on_safe",
        "persistent",
        "routing_key",
        "ttl_ms",
    )

    def __init__(
        self,
        exchange: str,
        routing_key: str,
        header: bytes,
        body: bytes,
        *,
        persistent: bool = False,
        ttl_ms: int | None = None,
        deaths: tuple[Death, ...] = (),
    ) -> None:
        self.exchange = exchange
        self.routing_key = routing_key
        self.header = header
        self.body = body
        self.persistent = persistent
        self.ttl_ms = ttl_ms
        self.deaths = deaths
        self.id = 0  # its own number in the ledger, once it is kept there; and of its record
        self.noted = 0
        self.holds = 0  # how many of the queues for which it is kept there are not done with it
        self.on_safe: Callable[[], None] | None = None  # what to do once they all are, if its publisher still waits

    @property
    def size(self) -> int:
        """What it costs to remember, roughly, in bytes."""
        return len(self.header) + len(self.body) + 400


class Entry:
    """One queue's hold on a message. Entries compare by identity."""

    __slots__ = ("at", "expires_at", "message", "position", "redelivered")

    def __init__(self, message: Message, position: int, at: float, expires_at: float) -> None:
        self.message = message
        self.position = position
        self.at = at
        self.expires_at = expires_at
        self.redelivered = False
