# SPDX-License-Identifier: Apache-2.0
"""Jobs and the workers that do them: one job a tag at a time, many tags side by side.

A job is journalled before anybody is told that it was accepted, and its end before anybody is told of it.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from xenops.errors import Busy, Cancelled, Fault, InternalError
from xenops.service.log import work
from xenops.types.task import TaskState
from xenopsd.engine.queues import Queues
from xenopsd.engine.tasks import Task, Tasks, failed

log = logging.getLogger(__name__)

_GIVEN_UP_S = 1.0  # what was given up ends at once, unless it holds on to itself


class Journal(Protocol):
    """Where accepted work is written down; each call returns once that is durable, however long it takes."""

    async def accept(self, task: Task, payload: bytes, message_id: str | None, *, begun: bool) -> None:
        """This work was accepted; `payload` is enough to begin it again, `begun` that it is under way already.

        Raises a fault when that cannot be written down, and then it never will be: the work is refused.
        """

    async def begin(self, task: Task) -> None:
        """It is under way: after a restart it must not be begun again."""

    async def finish(self, task: Task, state: TaskState) -> None:
        """It has ended."""

    def forget(self, task: Task) -> None:
        """Nobody wants to know any more."""


@dataclass
class Job:
    """Work for one tag. `key` tells equal jobs apart from others: a waiting one makes a second superfluous."""

    tag: str
    task: Task
    run: Callable[[Task], Awaitable[None]]
    payload: bytes | None = None  # None: not journalled, it would be found again anyway
    message_id: str | None = None
    key: str | None = None
    deadline: int | None = None
    accepted: "asyncio.Future[None] | None" = field(default=None, repr=False)
    begun: bool = False


class Workers:
    """At most `size` jobs at once."""

    def __init__(self, tasks: Tasks, journal: Journal, *, size: int, queue_limit: int) -> None:
        self.size, self.queue_limit = size, queue_limit
        self._tasks, self._journal = tasks, journal
        self._queues: Queues[Job] = Queues()
        self._running: dict[asyncio.Task[None], Job] = {}
        self._cancelled: set[asyncio.Task[None]] = set()  # the ends of what was cancelled while it waited
        self._stopping = False

    async def submit(self, job: Job) -> Task:
        """Accept a job; returns once it is in the journal.

        Raises `Busy` when its tag has too many waiting, and the journal's fault when that cannot be written.
        """
        if len(self._queues.waiting(job.tag)) >= self.queue_limit or self._stopping:
            self._tasks.drop(job.task)
            raise Busy("xenopsd" if self._stopping else f"the queue of {job.tag}", 1000)
        job.begun = self._queues.is_idle(job.tag) and len(self._running) < self.size
        if job.payload is not None:
            job.accepted = asyncio.ensure_future(self._accept(job, job.payload))
        self._queues.push(job.tag, job)
        self._pump()
        if job.accepted is not None:
            await asyncio.shield(job.accepted)
        return job.task

    def submit_soon(self, job: Job) -> bool:
        """Queue a job that needs no journal; false when an equal one waits already."""
        if self._stopping or (job.key is not None and self.waits(job.tag, job.key)):
            self._tasks.drop(job.task)
            return False
        self._queues.push(job.tag, job)
        self._pump()
        return True

    def waits(self, tag: str, key: str) -> bool:
        """Whether a job of that key waits already; not whether one runs, which may have looked too early."""
        return any(job.key == key for job in self._queues.waiting(tag))

    def requeue(self, job: Job) -> None:
        """Queue a job that the journal holds already, from an earlier life."""
        self._queues.push(job.tag, job)
        self._pump()

    def is_idle(self, tag: str) -> bool:
        """Whether nothing runs or waits under a tag."""
        return self._queues.is_idle(tag)

    def resize(self, size: int) -> None:
        """How many at once, from now on."""
        self.size = size
        self._pump()

    async def cancel(self, task: Task) -> None:
        """Cancel a task; one that still waits ends at once."""
        if not task.cancel():
            log.info("task %s cannot be cancelled any more", task.id)
            return
        for job in self._queues.remove(lambda job: job.task is task):
            ending = asyncio.create_task(self._end(job, failed(Cancelled(task.id))), name=f"cancel {task.id}")
            self._cancelled.add(ending)
            ending.add_done_callback(self._cancelled.discard)
            await asyncio.shield(ending)  # who asked may leave; it is in no queue any more, and must have its end

    async def stop(self, timeout_s: float) -> None:
        """Begin nothing new; wait for what runs, then cut it off, and wait as long again for the way back.

        What had to be given up is in the journal as begun and not ended: the next life makes it good.
        """
        self._stopping = True
        ours = {*self._running, *self._cancelled}
        if ours:
            await asyncio.wait(ours, timeout=timeout_s)
        cut = {running for running in ours if not running.done()}
        for running in cut:
            running.cancel()
        if cut:
            _, cut = await asyncio.wait(cut, timeout=timeout_s)
        if cut:
            log.error("%d operations could not be undone in time; the next start looks after their machines", len(cut))
            for task in self._tasks:
                task.give_up()
            _, cut = await asyncio.wait(cut, timeout=_GIVEN_UP_S)
        for running in cut:
            log.critical("%s does not let itself be given up", running.get_name())

    def depth(self) -> tuple[int, float]:
        """How many jobs wait, and for how many seconds the oldest has."""
        oldest = min((job.task.ctime for jobs in self._queues.snapshot().values() for job in jobs), default=0)
        return len(self._queues), (time.time() - oldest / 1000) if oldest else 0.0

    def describe(self) -> dict[str, Any]:
        """For diagnostics."""
        queues = [
            {"tag": tag, "works": [job.task.operation for job in jobs]} for tag, jobs in self._queues.snapshot().items()
        ]
        busy = [
            {"state": f"Processing {j.task.operation}", "task": j.task.id, "step": j.task.step}
            for j in self._running.values()
        ]
        return {"queues": queues, "workers": busy + [{"state": "Idle"}] * max(0, self.size - len(busy))}

    def _pump(self) -> None:
        while len(self._running) < self.size and not self._stopping and (popped := self._queues.pop()):
            _, job = popped
            running = asyncio.create_task(self._run(job), name=f"{job.task.operation} {job.tag}")
            self._running[running] = job
            running.add_done_callback(self._ended)

    def _ended(self, running: "asyncio.Task[None]") -> None:
        job = self._running.pop(running)
        self._queues.finish(job.tag)
        if not running.cancelled() and (error := running.exception()) is not None:
            reference = secrets.token_hex(4)
            log.critical("the end of task %s is not in the journal, %s", job.task.id, reference, exc_info=error)
            job.task.finish(failed(InternalError(reference, type(error).__name__)))  # nobody waits for ever
        self._pump()

    async def _accept(self, job: Job, payload: bytes) -> None:
        try:
            await self._journal.accept(job.task, payload, job.message_id, begun=job.begun)
        except Exception as error:
            log.error("%s is refused, the journal cannot be written: %s", job.task.operation, error)
            self._queues.remove(lambda other: other is job)
            self._tasks.drop(job.task)
            raise

    async def _run(self, job: Job) -> None:
        task = job.task
        work.set(f"{task.id} {task.dbg}".rstrip())
        if job.accepted is not None:
            await asyncio.wait((job.accepted,))
            if job.accepted.exception() is not None:
                return  # refused: who asked has been told, and the task is gone
            if not job.begun:
                await self._journal.begin(task)
        began = time.perf_counter()
        try:
            await job.run(task)
            state: TaskState = task.completed(time.perf_counter() - began)
        except Fault as fault:
            log.info("%s failed: %s", task.operation, fault)
            state = failed(fault)
        except Exception as error:
            reference = secrets.token_hex(4)
            log.exception("%s failed, reference %s", task.operation, reference)
            state = failed(InternalError(reference, type(error).__name__))
        await self._end(job, state)

    async def _end(self, job: Job, state: TaskState) -> None:
        if job.payload is not None:
            await self._journal.finish(job.task, state)
        job.task.finish(state)
        if job.payload is None:
            self._tasks.drop(job.task)
        elif job.task.destroy_on_finish:
            self._tasks.drop(job.task)
            self._journal.forget(job.task)
