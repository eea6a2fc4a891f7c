# SPDX-License-Identifier: Apache-2.0
"""Which message answers which. Pure.

A request is a publication that names where its reply is to go. Its reply is the first publication after it to that place with
its correlation id; with direct replies the place may be known by the pseudo-queue's name alone. Of requests that repeat both,
the oldest is answered first. Deliveries are counted as nothing but redeliveries, which are arrows of their own.

Times are the watcher's: from when it saw the request published to when it saw the reply published.
"""

from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from message_cli.calling import measured
from message_cli.chart.record import Seen

DIRECT = "amq.rabbitmq.reply-to"
ARROWS_MAX, LIFELINES_MAX = 10_000, 24
OTHERS = "(others)"


class Kind(Enum):
    """What an arrow is."""

    REQUEST = "request"
    REPLY = "reply"
    MESSAGE = "message"
    AGAIN = "again"


@dataclass
class Arrow:
    """One message from one lifeline to another; a request has `took_s` once it is answered, and so has its reply."""

    kind: Kind
    at_s: float
    source: str
    target: str
    method: str
    bytes: int
    fault: str = ""
    took_s: float | None = None

    @property
    def label(self) -> str:
        """What stands on it; never anything of a body but a method and a fault by name."""
        if self.kind is Kind.REPLY and self.took_s is not None:
            return " ".join(filter(None, (self.fault, f"{self.took_s * 1000:.1f} ms")))
        what = self.method or f"{self.bytes} bytes"
        if self.kind is Kind.AGAIN:
            return f"{what} (again)"
        return f"{what} (no reply)" if self.kind is Kind.REQUEST and self.took_s is None else what


class Conversation:
    """What was seen so far; `concerns` chooses the queues whose requests are of interest.

    Beyond `ARROWS_MAX` arrows nothing is kept but the count of them, `left_out`; beyond `LIFELINES_MAX` names all are `OTHERS`.
    """

    def __init__(self, concerns: Callable[[str], bool] = lambda queue: True) -> None:
        self.arrows: list[Arrow] = []
        self.answered = 0
        self.left_out = 0
        self._concerns = concerns
        self._names: set[str] = set()
        self._open: dict[tuple[str, str], deque[Arrow]] = defaultdict(deque)

    def see(self, seen: Seen) -> None:
        """The next message."""
        peer = seen.connection.partition(" -> ")[0] or "?"
        queue = seen.to[0] if seen.to and not seen.where else seen.where
        if seen.way == "publish":
            request = self._asked(seen)
            if request is not None:
                self._reply(seen, request)
            elif self._concerns(queue):
                kind = Kind.REQUEST if seen.reply_to else Kind.MESSAGE
                arrow = Arrow(kind, seen.seen_s, peer, queue or "?", seen.method, seen.bytes, seen.fault)
                if self._keep(arrow) and kind is Kind.REQUEST:
                    self._open[seen.reply_to, seen.correlation_id].append(arrow)
        elif seen.redelivered and self._concerns(seen.where):
            self._keep(Arrow(Kind.AGAIN, seen.seen_s, seen.where or "?", peer, seen.method, seen.bytes))

    def _asked(self, seen: Seen) -> Arrow | None:
        """The request that this answers, which waits no longer."""
        for place in seen.to if not seen.where else ():
            for name in (place, DIRECT) if place.startswith(DIRECT) else (place,):
                waiting = self._open.get((name, seen.correlation_id))
                if waiting:
                    request = waiting.popleft()
                    if not waiting:
                        del self._open[name, seen.correlation_id]
                    return request
        return None

    def _reply(self, seen: Seen, request: Arrow) -> None:
        took_s = max(0.0, seen.seen_s - request.at_s)
        request.took_s, request.fault = took_s, seen.fault
        self.answered += 1
        source, target = request.target, request.source
        self._keep(Arrow(Kind.REPLY, seen.seen_s, source, target, request.method, seen.bytes, seen.fault, took_s))

    def _keep(self, arrow: Arrow) -> bool:
        if len(self.arrows) >= ARROWS_MAX:
            self.left_out += 1
            return False
        arrow.source, arrow.target = self._name(arrow.source), self._name(arrow.target)
        self.arrows.append(arrow)
        return True

    def _name(self, name: str) -> str:
        if name not in self._names and len(self._names) >= LIFELINES_MAX:
            return OTHERS
        self._names.add(name)
        return name

    def latency(self) -> list[dict[str, object]]:
        """A row for each method that was asked for: how often, unanswered, faults, median and 99th percentile."""
        asked: dict[str, list[Arrow]] = defaultdict(list)
        for arrow in self.arrows:
            if arrow.kind is Kind.REQUEST:
                asked[arrow.method or "?"].append(arrow)
        return [{"method": method, **_figures(arrows)} for method, arrows in sorted(asked.items())]


def _figures(requests: list[Arrow]) -> dict[str, object]:
    taken = [request.took_s for request in requests if request.took_s is not None]
    figures = measured(taken, 0.0, sum(bool(request.fault) for request in requests if request.took_s is not None))
    return {
        "count": len(requests),
        "no_reply": len(requests) - len(taken),
        "faults": figures["faults"],
        "p50_ms": figures["p50_ms"],
        "p99_ms": figures["p99_ms"],
    }


def lifelines(arrows: list[Arrow]) -> list[str]:
    """The names between which arrows go, in order of appearance."""
    return list(dict.fromkeys(name for arrow in arrows for name in (arrow.source, arrow.target)))
