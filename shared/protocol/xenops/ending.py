# SPDX-License-Identifier: Apache-2.0
"""What both faces of the client have in common: where xenopsd is, how a task's end is waited for, what an event says."""

import logging
import os
import time
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from xenops import wire
from xenops.bus.port import Message
from xenops.errors import Fault, TimedOut, decode
from xenops.events import Event, Kind, pattern
from xenops.types import task as task_types
from xenops.where import find

log = logging.getLogger(__name__)
OnProgress = Callable[[float], None]
POLL_S = 30.0


def outcome(task: task_types.Task) -> Any:
    """The result of a task that has ended, or its fault raised."""
    match task.state:
        case task_types.Completed(result=result):
            return None if result is msgspec.UNSET else result
        case task_types.Failed(fault=fault):
            raise decode(msgspec.to_builtins(fault))
        case _:
            raise ValueError(f"the task {task.id} has not ended")


class Waiting:
    """How long to poll for the end of a task, and what to tell on the way."""

    def __init__(self, queue: str, timeout_s: float | None, on_progress: OnProgress | None, *, poll_s: float) -> None:
        self._queue, self._timeout_s, self._on_progress, self._poll_s = queue, timeout_s, on_progress, poll_s
        self._until = None if timeout_s is None else time.monotonic() + timeout_s
        self._looks = on_progress is not None  # first: who begins to look is told what was made before

    def poll_s(self) -> float:
        if self._looks:
            self._looks = False
            return 0.0
        return self._poll_s if self._until is None else max(0.0, min(self._poll_s, self._until - time.monotonic()))

    def has_ended(self, task: task_types.Task) -> bool:
        ended = not isinstance(task.state, task_types.Pending)
        if self._on_progress is not None:
            self._on_progress(task.state.progress if isinstance(task.state, task_types.Pending) else 1.0)
        if not ended and self._until is not None and time.monotonic() >= self._until:
            raise TimedOut(self._queue, self._timeout_s or 0.0)
        return ended


def placed(url: str | None, queue: str | None) -> tuple[str, str]:
    if url is not None and queue is not None:
        return url, queue
    where = find(os.environ)
    return url or where.amqp, queue or where.queue


def patterns(queue: str, kinds: Iterable[Kind], id: str = "*") -> list[str]:
    """The topics of the one xenopsd that serves `queue`, whose name is `xenops.<host>.<instance>`."""
    words = queue.split(".")
    host, instance = (words[1], words[2]) if len(words) == 3 else ("*", "*")
    return [pattern(host, instance, kind, id) for kind in kinds] or [pattern(host, instance)]


def read_event(message: Message) -> Event | None:
    try:
        return wire.decode_event(message.body)
    except Fault as fault:
        log.warning("an event that is none, on %s: %s", message.routing_key, fault)
        return None
