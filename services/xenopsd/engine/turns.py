# SPDX-License-Identifier: Apache-2.0
"""What has a turn in a queue and is no task that anybody watches: who asked waits for it, and its fault is raised there."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from xenops.errors import Busy, DeadlineExceeded, StepTimedOut
from xenops.rpc import calling
from xenopsd.engine.tasks import Task, Tasks
from xenopsd.engine.workers import Job, Workers

LIMIT_S = 60.0
# Requests that wait for a turn are the bus's still, which hands us 256 at once: others need room too.
WAITING_MAX, ROOM_S = 192, 0.5
_RETRY_AFTER_MS = 1000
_undecided: ContextVar[asyncio.Timeout | None] = ContextVar("undecided", default=None)


class Turns:
    """One after the other with the tasks of the same queue."""

    def __init__(self, tasks: Tasks, workers: Workers) -> None:
        self._tasks, self._workers = tasks, workers
        self._room = asyncio.Semaphore(WAITING_MAX)

    async def take(self, tag: str, name: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do something when it is the turn of that queue, after all that was asked before; its fault is raised here.

        It has `LIMIT_S` up to its `decide`, then `StepTimedOut` is raised: the next in the queue has waited for long enough.
        Raises `Busy` when `WAITING_MAX` requests wait for a turn already, `DeadlineExceeded` when it comes too late.
        """
        if not calling.get().method:  # our own affair
            await self._wait(tag, name, work)
            return
        try:
            async with asyncio.timeout(ROOM_S):
                await self._room.acquire()
        except TimeoutError:
            raise Busy(f"the queue of {tag}", _RETRY_AFTER_MS) from None
        try:
            await self._wait(tag, name, work)
        finally:
            self._room.release()

    async def _wait(self, tag: str, name: str, work: Callable[[], Awaitable[None]]) -> None:
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        envelope = calling.get()

        async def run(task: Task) -> None:
            calling.set(envelope)  # whoever's turn it was before may have begun this one
            try:
                refuse_if_late(envelope.deadline)
                async with asyncio.timeout(LIMIT_S) as limit:
                    _undecided.set(limit)
                    await work()
            except Exception as error:
                error = StepTimedOut(name, LIMIT_S) if isinstance(error, TimeoutError) else error
                done.set_exception(error)
                raise error from None
            except asyncio.CancelledError:
                done.cancel()
                raise
            else:
                done.set_result(None)
            finally:
                _undecided.set(None)

        task = self._tasks.new(name, vm=tag, dbg=envelope.debug_info, private=True)
        await self._workers.submit(Job(tag=tag, task=task, run=run))
        await done


def decide() -> None:
    """What this turn is for is about to be made so, and not to be cut by the limit any more."""
    if (limit := _undecided.get()) is not None:
        limit.reschedule(None)


def refuse_if_late(deadline: int | None) -> None:
    """Raise `DeadlineExceeded` for what was wanted before now (milliseconds since 1970)."""
    if deadline is not None and time.time() * 1000 > deadline:
        raise DeadlineExceeded(deadline)
