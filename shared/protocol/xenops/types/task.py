# SPDX-License-Identifier: Apache-2.0
"""A piece of work that was accepted: watched by id, cancelled by id, and true to its end even across restarts."""

from typing import Annotated, Any

from msgspec import Meta, field

from xenops.types.ids import TaskId
from xenops.types.record import UNSET, Maybe, Record


class Pending(Record, frozen=True, kw_only=True, tag="Pending", tag_field="type"):
    """Waiting or under way."""

    progress: Annotated[float, Meta(ge=0, le=1)] = 0.0


class Completed(Record, frozen=True, kw_only=True, tag="Completed", tag_field="type"):
    """Done; some tasks have a result."""

    duration_s: float
    result: Maybe[Any] = UNSET


class FaultRecord(Record, frozen=True, kw_only=True):
    """A fault at rest, as `xenops.errors.encode` writes it; `xenops.errors.decode` makes an exception of it."""

    name: str
    fields: dict[str, Any] = field(default_factory=dict)
    message: str = ""


class Failed(Record, frozen=True, kw_only=True, tag="Failed", tag_field="type"):
    """Not done, and why."""

    fault: FaultRecord


TaskState = Pending | Completed | Failed


class Subtask(Record, frozen=True, kw_only=True):
    """One step of a task, by the name it has in the plan."""

    name: str
    state: TaskState


class Task(Record, frozen=True, kw_only=True):
    """A task as a client sees it; `ctime` is in Unix milliseconds; a cancel has no effect unless `cancellable`."""

    id: TaskId
    operation: str
    vm: Maybe[str] = UNSET
    dbg: str = ""
    ctime: int
    state: TaskState
    subtasks: list[Subtask] = field(default_factory=list)
    debug_info: dict[str, str] = field(default_factory=dict)
    cancellable: bool = True
