# SPDX-License-Identifier: Apache-2.0
"""Tasks."""

from xenops.interfaces.xenops import Task
from xenops.types import task as wire
from xenopsd.control import Control
from xenopsd.store.journal import Journal


class TaskApi(Task):
    """Watches, cancels and forgets tasks."""

    def __init__(self, control: Control, journal: Journal) -> None:
        self._control, self._journal = control, journal
        self._tasks, self._workers = control.tasks, control.workers

    async def stat(self, id: str) -> wire.Task:
        return self._tasks.find(id).record()

    async def wait(self, id: str, timeout: float = 30.0) -> wire.Task:
        task = self._tasks.find(id)
        await task.wait(timeout)
        return task.record()

    async def cancel(self, id: str) -> None:
        await self._workers.cancel(self._tasks.find(id))

    async def destroy(self, id: str) -> None:
        task = self._tasks.find(id)
        if task.ended:
            await self._control.commit(self._journal.forgetting(task), None)
            self._tasks.drop(task)
        else:
            self._tasks.forget(id)

    async def list(self) -> list[wire.Task]:
        return [task.record(steps=not task.ended) for task in self._tasks if not task.private]

    async def destroy_on_finish(self, id: str) -> None:
        await self.destroy(id)
