# SPDX-License-Identifier: Apache-2.0
"""What all connections of one switch share, and what each of them writes into. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from message_switch.access.users import Applicant, Guess, User, Users
from message_switch.model.broker import Broker
from message_switch.model.faults import Code, ConnectionFault
from xenops.interfaces.switch import SWITCH_QUEUE

# Above this a connection gets no further deliveries until it has read what it was sent.
HIGH_WATER = 1 << 18
# A direct reply has no queue to wait in: a peer this far behind with reading loses it. All that do not read get together no
# more than `Broker.bytes_max`: beyond that each loses what is above `HIGH_WATER`.
REPLY_WATER = 1 << 25


@dataclass(frozen=True)
class Limits:
    """What a peer may ask of us."""

    frame_max: int = 131072
    channel_max: int = 2047
    heartbeat_s: int = 60
    body_max: int = 16 << 20
    handshake_s: float = 10.0


def _nobody_checks(applicant: Applicant, guess: Guess) -> None:
    raise ConnectionFault(Code.INTERNAL_ERROR, "there is nobody here to check a password")


class Waiting(Protocol):
    """A channel with messages that are not safe yet."""

    def synced(self, up_to: int) -> bool:
        """Confirm what is safe now; whether there is more to wait for."""


@dataclass
class Switch:
    """One broker, who may use it, how far its ledger has been synced, and how many bytes peers have left unread."""

    broker: Broker
    users: Users
    limits: Limits = field(default_factory=Limits)
    synced: int = 0
    unread: int = 0
    begun: int = 0  # bytes of messages of which more is to come, at most as many as may wait
    waiting: dict[Waiting, None] = field(default_factory=dict)
    check: Callable[[Applicant, Guess], None] = _nobody_checks
    """Who finds out whether a guess holds, and tells the applicant."""

    def begin(self, size: int) -> None:
        """So many bytes more of a message that is not whole yet; who says them is told off when all begin too much together."""
        self.begun += size
        if self.begun > self.broker.bytes_max:
            raise ConnectionFault(Code.RESOURCE_ERROR, f"{self.begun} bytes of messages were begun and not ended")

    def may_publish(self, user: User, exchange: str, routing_key: str) -> bool:
        """Whether that user may publish there, as far as the switch's own queue is concerned: the one place that says so."""
        return exchange != "" or routing_key != SWITCH_QUEUE or user.administrator

    def loses_reply(self, outbox: "Outbox") -> bool:
        """Whether that peer is, or all are together, so far behind with reading that it gets no direct reply."""
        return outbox.behind > REPLY_WATER or (outbox.behind > HIGH_WATER and self.unread > self.broker.bytes_max)

    def on_synced(self, up_to: int) -> None:
        """The ledger is safe up to this number: tell the publishers that wait for it."""
        self.synced = up_to
        for channel in list(self.waiting):
            if not channel.synced(up_to):
                del self.waiting[channel]


def _nobody_wakes() -> None:
    """Nothing more is sent there."""


class Outbox:
    """What one connection is to be sent, gathered until the rim takes it; `wake` says that there is something."""

    __slots__ = ("_wake", "parts", "size", "unread", "writable")

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self.parts: list[bytes] = []
        self.size = 0
        self.unread = 0  # of what the rim took earlier, as far as it knows
        self.writable = True

    @property
    def behind(self) -> int:
        """How many bytes the peer has still to read."""
        return self.size + self.unread

    def send(self, data: bytes) -> None:
        """One or more whole frames."""
        if not self.parts:
            self._wake()
        self.parts.append(data)
        self.size += len(data)

    def deliver(self, method: bytes, content: Iterable[bytes], size: int) -> None:
        """A message; when there is much to read already, it is the last for now."""
        if not self.parts:
            self._wake()
        self.parts.append(method)
        self.parts += content
        self.size += len(method) + size
        if self.size > HIGH_WATER:
            self.writable = False

    def take(self) -> bytes:
        """All of it."""
        data = b"".join(self.parts)
        self.parts.clear()
        self.size = 0
        return data

    def close(self) -> None:
        """The peer has gone: what it was to be sent is forgotten, and so is who would have sent it."""
        self.take()
        self.writable, self._wake = False, _nobody_wakes
