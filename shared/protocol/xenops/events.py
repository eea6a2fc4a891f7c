# SPDX-License-Identifier: Apache-2.0
"""Events: what they say, and the topics under which they travel.

An event says that something changed and enough to redraw a list, never the whole object. Within one `epoch` the
`seq` of a host's events grows by one; on a gap a subscriber asks `UPDATES.get` from its last token.
"""

from enum import Enum
from typing import Any

import msgspec
from msgspec import UNSET

from xenops.types.record import Maybe, Record


class Kind(Enum):
    """What an event is about."""

    VM = "vm"
    VBD = "vbd"
    VIF = "vif"
    PCI = "pci"
    VUSB = "vusb"
    VGPU = "vgpu"
    TASK = "task"
    SERVICE = "service"


class Change(Enum):
    """What happened to it."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class Event(Record, frozen=True, kw_only=True):
    """One change; `at` is in Unix milliseconds; `token` is where `UPDATES.get` would go on from."""

    epoch: str
    seq: int
    host: str
    instance: str
    kind: Kind
    id: str
    change: Change
    at: int
    token: str = ""
    power_state: Maybe[str] = UNSET  # of a VM
    name: Maybe[str] = UNSET  # of a VM
    state: Maybe[str] = UNSET  # of a task: Pending, Completed or Failed
    progress: Maybe[float] = UNSET  # of a task, 0 to 1
    service: Maybe[dict[str, Any]] = UNSET  # of a service: what `query` answers


def topic(host: str, instance: str, kind: Kind, id: str) -> str:
    """The routing key of an event; a `.` within an id would add a word, and so becomes `_`."""
    return ".".join((_word(host), _word(instance), kind.value, _word(id)))


def pattern(host: str = "*", instance: str = "*", kind: Kind | None = None, id: str = "*") -> str:
    """The binding key that matches the topics of some events."""
    words = (host if host == "*" else _word(host), instance if instance == "*" else _word(instance))
    return ".".join((*words, kind.value if kind else "*", id if id == "*" else _word(id)))


def encode(event: Event) -> bytes:
    """An event's bytes in MessagePack."""
    return msgspec.msgpack.encode(event)


def _word(text: str) -> str:
    return text.replace(".", "_")
