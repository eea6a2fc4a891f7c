# SPDX-License-Identifier: Apache-2.0
"""Tasks: accepted work that can be watched and cancelled.

    Pending --------> Completed          (all steps done)
       |------------> Failed(fault)      (a step failed, or Cancelled, or Interrupted by a restart)

A task's id is never used again, not even after a restart. What has ended is remembered until its owner destroys it
or it expires.
"""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xenops.errors import Cancelled, DoesNotExist, Fault
from xenops.errors import encode as encode_fault
from xenops.types import task as wire
from xenops.types.record import UNSET, UnsetType
from xenops.types.task import Completed, Failed, FaultRecord, Pending, Subtask, TaskState

Changed = Callable[["Task"], None]


def failed(fault: Fault) -> Failed:
    """The state of a task that ended with a fault."""
    facts = encode_fault(fault)
    return Failed(fault=FaultRecord(name=facts["name"], fields=facts["fields"], message=facts["message"]))


class Task:
    """One piece of work, as the steps that do it see it."""

    def __init__(self, id: str, operation: str, *, vm: str | None, dbg: str, ctime: int, changed: Changed) -> None:
        self.id, self.operation, self.vm, self.dbg, self.ctime = id, operation, vm, dbg, ctime
        self.state: TaskState = Pending()
        self.subtasks: list[Subtask] = []
        self.cancellable = True
        self.destroy_on_finish = False
        self.private = False
        self.stepped: Changed = _tell_nobody  # told when a step begins
        self.message_id: str | None = None  # of the request that asked for it
        self.result: Any = None
        self.ended_at = 0.0
        self.step = ""  # the one that was begun last
        self.cancelling = False
        self.cancel_points_seen = 0
        self.cancel_at: int | None = None  # a test's wish: be cancelled at the n-th cancel point
        self._total, self._done = 1.0, 0.0
        self._limits: dict[asyncio.Timeout, float] = {}  # of the steps under way, and the patience with each
        self._going_back: set[asyncio.Future[None]] = set()
        self._given_up = False
        self._ended: asyncio.Event | None = None
        self._changed = changed

    @property
    def ended(self) -> bool:
        """Whether it has come to its end, good or bad."""
        return not isinstance(self.state, Pending)

    def announce(self) -> None:
        """Tell whoever watches that it changed."""
        self._changed(self)

    def expect(self, total_weight: float) -> None:
        """How much work there is in all, in the weights of its steps."""
        self._total = max(total_weight, 1e-9)

    def checkpoint(self) -> None:
        """Between steps: raises `Cancelled` when somebody asked for it."""
        self.cancel_points_seen += 1
        if self.cancel_points_seen == self.cancel_at:
            self.cancelling = True
        if self.cancelling and self.cancellable:
            raise Cancelled(self.id)

    def begin(self, name: str) -> None:
        """A step begins."""
        self.step = name
        self.subtasks.append(Subtask(name=name, state=Pending()))
        self.stepped(self)

    def end_step(self, name: str, outcome: TaskState) -> None:
        """A step has ended."""
        for place in range(len(self.subtasks) - 1, -1, -1):
            if self.subtasks[place].name == name and isinstance(self.subtasks[place].state, Pending):
                self.subtasks[place] = Subtask(name=name, state=outcome)
                return

    def advance(self, weight: float) -> None:
        """A step of that weight is done, or that much of one."""
        self._done += weight
        if not self.ended:
            self.state = Pending(progress=min(1.0, self._done / self._total))
            self._changed(self)

    @contextmanager
    def interrupts(self, limit: asyncio.Timeout, patience_s: float) -> Iterator[None]:
        """While this lasts, a cancel brings a step's time limit forward: it has `patience_s` left to end by itself."""
        self._limits[limit] = patience_s
        try:
            yield
        finally:
            del self._limits[limit]

    @contextmanager
    def goes_back(self, unwinding: "asyncio.Future[None]") -> Iterator["asyncio.Future[None]"]:
        """While its steps are undone, which nobody but `give_up` may cut short."""
        self._going_back.add(unwinding)
        if self._given_up:
            unwinding.cancel()
        try:
            yield unwinding
        finally:
            self._going_back.discard(unwinding)

    def give_up(self) -> None:
        """There is no time left, not even for the way back."""
        self._given_up = True
        for unwinding in tuple(self._going_back):
            unwinding.cancel()

    def cancel(self) -> bool:
        """Ask it to stop; false when it is past its point of no return, or ended."""
        if self.ended or not self.cancellable:
            return False
        if not self.cancelling:
            self.cancelling = True
            for limit, patience_s in self._limits.items():
                _bring_forward(limit, patience_s)
        return True

    def pass_pivot(self) -> None:
        """From here on there is no way back, and so no cancelling."""
        self.cancellable = False
        self._changed(self)

    def finish(self, state: TaskState) -> None:
        """It has come to its end."""
        self.state, self.ended_at, self.cancellable = state, time.monotonic(), False
        if self._ended is not None:
            self._ended.set()
        self._changed(self)

    async def wait(self, timeout_s: float) -> None:
        """Return when it has ended or the time is up."""
        if self.ended:
            return
        self._ended = self._ended or asyncio.Event()
        try:
            async with asyncio.timeout(timeout_s):
                await self._ended.wait()
        except TimeoutError:
            return

    def completed(self, duration_s: float) -> Completed:
        """The state of a task that did all its steps."""
        return Completed(duration_s=round(duration_s, 6), result=UNSET if self.result is None else self.result)

    def record(self, *, steps: bool = True) -> wire.Task:
        """The task as a client sees it, with its steps or without."""
        vm: str | UnsetType = UNSET if self.vm is None else self.vm
        return wire.Task(
            id=self.id,
            operation=self.operation,
            vm=vm,
            dbg=self.dbg,
            ctime=self.ctime,
            state=self.state,
            subtasks=list(self.subtasks) if steps else [],
            debug_info={"cancel_points_seen": str(self.cancel_points_seen)},
            cancellable=self.cancellable,
        )


class Tasks:
    """All tasks that are not forgotten."""

    def __init__(self, *, started_ms: int, changed: Changed, removed: Changed) -> None:
        self._prefix = f"{started_ms:x}"
        self._next = 0
        self._tasks: dict[str, Task] = {}
        self._changed, self._removed = changed, removed
        self._triggers: dict[str, int] = {}

    def new(self, operation: str, *, vm: str | None, dbg: str = "", private: bool = False) -> Task:
        """A task that is pending; a `private` one is work of our own, of which nobody is told."""
        self._next += 1
        id = f"{self._prefix}-{self._next}"
        task = Task(
            id,
            operation,
            vm=vm,
            dbg=dbg,
            ctime=int(time.time() * 1000),
            changed=_tell_nobody if private else self._changed,
        )
        task.private = private
        task.cancel_at = self._triggers.pop(dbg, None)
        self._tasks[id] = task
        task.announce()
        return task

    def restore(self, record: wire.Task) -> Task:
        """A task of the daemon's earlier life."""
        vm = record.vm if isinstance(record.vm, str) else None
        task = Task(record.id, record.operation, vm=vm, dbg=record.dbg, ctime=record.ctime, changed=self._changed)
        task.subtasks = list(record.subtasks)
        self._tasks[task.id] = task
        if not isinstance(record.state, Pending):
            task.finish(record.state)
        return task

    def find(self, id: str) -> Task:
        """The task of that id; raises `DoesNotExist`, also for a private one."""
        task = self._tasks.get(id)
        if task is None or task.private:
            raise DoesNotExist("task", id)
        return task

    def forget(self, id: str) -> None:
        """Forget a task; one that runs goes on, and is forgotten at its end."""
        task = self.find(id)
        if not task.ended:
            task.destroy_on_finish = True
            return
        self.drop(task)

    def drop(self, task: Task) -> None:
        """Take it out, whatever became of it."""
        if self._tasks.pop(task.id, None) and not task.private:
            self._removed(task)

    def expire(self, *, older_than_s: float, newest: int) -> list[Task]:
        """Forget what ended longer ago than that, and what so many have ended after; returns them."""
        limit = time.monotonic() - older_than_s
        ended = sorted(
            (task for task in self._tasks.values() if task.ended and not task.private), key=lambda task: task.ended_at
        )
        crowd = max(0, len(ended) - newest)
        gone = [task for n, task in enumerate(ended) if n < crowd or task.ended_at < limit]
        for task in gone:
            self.forget(task.id)
        return gone

    def set_cancel_trigger(self, dbg: str, n: int) -> None:
        """The next task with that debug_info is cancelled at its n-th cancel point."""
        self._triggers[dbg] = n

    def __iter__(self) -> Iterator[Task]:
        return iter(tuple(self._tasks.values()))

    def __len__(self) -> int:
        return len(self._tasks)


def _bring_forward(limit: asyncio.Timeout, left_s: float) -> None:
    when = asyncio.get_running_loop().time() + left_s
    if not limit.expired() and (limit.when() or when) >= when:
        limit.reschedule(when)


def _tell_nobody(task: Task) -> None:
    """A private task's change."""
