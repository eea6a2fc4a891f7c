# SPDX-License-Identifier: Apache-2.0
"""What is wrong with a queue, judged from one or two looks at it. Pure.

consumers?  messages?   ever served?        verdict
yes         move        -                   running
yes         stand still -                   deadlocked
no          -           no                  never started
no          -           yes                 crashed
"""

from enum import Enum

from xenops.interfaces.switch import QueueStat
from xenops.types.record import UNSET


class Verdict(Enum):
    """How a service looks from outside."""

    RUNNING = "running"
    NEVER_STARTED = "never started"
    CRASHED = "crashed"
    DEADLOCKED = "deadlocked"


def verdict(before: QueueStat, now: QueueStat, patience_s: float) -> Verdict:
    """Judge a queue; where the broker knows no ages, `before` is a look `patience_s` ago."""
    if not now.consumers:
        return Verdict.CRASHED if now.served else Verdict.NEVER_STARTED
    if stuck(now, patience_s) and not _moved(before, now):
        return Verdict.DEADLOCKED
    return Verdict.RUNNING


def stuck(queue: QueueStat, patience_s: float) -> bool:
    """Whether it may be stuck: something waits, and its age is too high or unknown."""
    waits = bool(queue.ready or queue.unacked)
    return waits and (queue.oldest_s is UNSET or queue.oldest_s > patience_s)


def needs_second_look(queue: QueueStat, patience_s: float) -> bool:
    """Whether only a second look can tell: its age is unknown, and it may be stuck."""
    return bool(queue.consumers) and queue.oldest_s is UNSET and stuck(queue, patience_s)


def _moved(before: QueueStat, now: QueueStat) -> bool:
    """Ages are the better witness; without them, a count that grew or fewer messages are."""
    if now.oldest_s is not UNSET:
        return False
    fewer = now.ready + now.unacked < before.ready + before.unacked
    return fewer or now.settled != before.settled or not (before.ready or before.unacked)
