# SPDX-License-Identifier: Apache-2.0
"""The calls that one connection has under way: what is to be sent, sent again, or given up, and in which order.

    add ──► sent ──► confirmed ──► answered
              │          ▲
              └► returned (nobody serves the queue): held, one of them sent as a probe from time to time

Requests to one queue are sent in the order in which they were made, also after the queue has appeared or the
connection was made again: therefore only one held request goes ahead, and the others follow once it was taken.
"""

from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Call(Generic[T]):
    """One request under way; `what` is the caller's business."""

    number: int
    queue: str
    repeatable: bool  # its server remembers the first outcome: it may be sent twice
    what: T
    sent: bool = False
    returned: bool = False  # the last thing heard of it was that nobody serves its queue


@dataclass(slots=True)
class _Held(Generic[T]):
    """The requests to a queue that nobody serves."""

    calls: dict[int, Call[T]] = field(default_factory=dict)
    probe: int | None = None


class Calls(Generic[T]):
    """All calls of one connection; the methods return the calls that are to be sent now, in this order."""

    def __init__(self) -> None:
        self._calls: dict[int, Call[T]] = {}
        self._held: dict[str, _Held[T]] = {}
        self._unconfirmed: dict[int, Call[T]] = {}  # by delivery tag, ascending
        self._next = 1

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, queue: str, what: T, *, repeatable: bool) -> tuple[Call[T], bool]:
        """A new call, and whether to send it now: not while others wait for the same queue to appear."""
        call = Call(self._next, queue, repeatable, what)
        self._next += 1
        self._calls[call.number] = call
        held = self._held.get(queue)
        if held is not None:
            held.calls[call.number] = call
        return call, held is None

    def sent(self, call: Call[T], tag: int) -> None:
        """The call was handed to the bus under this delivery tag."""
        call.sent, call.returned = True, False
        self._unconfirmed[tag] = call

    def confirmed(self, tag: int, *, multiple: bool) -> list[Call[T]]:
        """The bus has taken these; if one was a probe that did not come back, the calls held behind it go now."""
        released: list[Call[T]] = []
        for call in self._settle(tag, multiple=multiple):
            held = self._held.get(call.queue)
            if held is not None and held.probe == call.number:
                del self._held[call.queue]
                released += (held.calls[n] for n in sorted(held.calls) if n != call.number)
        return released

    def refused(self, tag: int, *, multiple: bool) -> tuple[list[Call[T]], list[Call[T]]]:
        """The bus would not take these, so nobody has seen them. And the calls that were held behind one of them."""
        refused = [call for call in self._peek(tag, multiple=multiple) if call.number in self._calls]
        released = self.confirmed(tag, multiple=multiple)
        for call in refused:
            call.sent = False
        return refused, released

    def returned(self, number: int) -> str | None:
        """Nobody serves the queue of this call; it is held, and the queue is to be probed after a while."""
        call = self._calls.get(number)
        if call is None:
            return self._probe_gone(number)
        call.returned = True
        held = self._held.setdefault(call.queue, _Held())
        first = not held.calls or held.probe == number
        held.calls[number] = call
        if held.probe == number:
            held.probe = None
        return call.queue if first else None

    def probe(self, queue: str) -> Call[T] | None:
        """The call that goes ahead to see whether the queue is there by now."""
        held = self._held.get(queue)
        if held is None or held.probe is not None:
            return None
        if not held.calls:
            del self._held[queue]
            return None
        held.probe = min(held.calls)
        return held.calls[held.probe]

    def probes(self, call: Call[T]) -> bool:
        """Whether the call is a probe of which the bus has not yet said what became of it."""
        held = self._held.get(call.queue)
        return held is not None and held.probe == call.number

    def answered(self, number: int) -> Call[T] | None:
        """A reply came; None if nobody waits for it any more."""
        call = self._calls.get(number)
        if call is not None:
            self.drop(call)
        return call

    def drop(self, call: Call[T]) -> None:
        """Nobody waits for this call any more. What it was a probe for, its confirmation still tells."""
        self._calls.pop(call.number, None)
        held = self._held.get(call.queue)
        if held is not None:
            held.calls.pop(call.number, None)

    def lost(self) -> list[Call[T]]:
        """The connection is gone: the calls of which it cannot be known whether they were carried out."""
        self._held.clear()
        self._unconfirmed.clear()
        hopeless = [call for call in self._calls.values() if call.sent and not call.returned and not call.repeatable]
        for call in hopeless:
            del self._calls[call.number]
        return hopeless

    def waits(self, call: Call[T]) -> bool:
        """Whether anybody waits for this call still."""
        return call.number in self._calls

    def all(self) -> list[Call[T]]:
        """Every call under way, oldest first: what is to be sent over a new connection."""
        return list(self._calls.values())

    def _probe_gone(self, number: int) -> str | None:
        for queue, held in self._held.items():
            if held.probe == number:
                held.probe = None
                return queue
        return None

    def _peek(self, tag: int, *, multiple: bool) -> list[Call[T]]:
        if not multiple:
            call = self._unconfirmed.get(tag)
            return [call] if call is not None else []
        return [call for t, call in self._unconfirmed.items() if t <= tag]

    def _settle(self, tag: int, *, multiple: bool) -> list[Call[T]]:
        if not multiple:
            call = self._unconfirmed.pop(tag, None)
            return [call] if call is not None else []
        tags = [t for t in self._unconfirmed if t <= tag]
        return [self._unconfirmed.pop(t) for t in tags]
