# SPDX-License-Identifier: Apache-2.0
"""Work that was accepted and can be watched and cancelled."""

from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import DoesNotExist
from xenops.idl import Interface, rpc
from xenops.types import task
from xenops.types.ids import TaskId

WaitSeconds = Annotated[float, Meta(ge=0, le=300, description="seconds")]


class Task(Interface, Protocol):
    """Work that was accepted and can be watched and cancelled."""

    name: ClassVar[str] = "Task"

    @rpc(raises=(DoesNotExist,), reads=True)
    async def stat(self, id: TaskId) -> task.Task:
        """The task as it is now."""

    @rpc(raises=(DoesNotExist,), waits=True)
    async def wait(self, id: TaskId, timeout: WaitSeconds = 30.0) -> task.Task:
        """The task as soon as it has ended, or as it is when the time is up."""

    @rpc(raises=(DoesNotExist,))
    async def cancel(self, id: TaskId) -> None:
        """Stop the task; without effect once it has passed its point of no return.

        One that waits for its turn ends at once. A step that waits for a guest or for a program is cut at once, any other when
        it has not ended within 4 seconds; then what was done is taken back, and the machine is checked.
        """

    @rpc(raises=(DoesNotExist,))
    async def destroy(self, id: TaskId) -> None:
        """Forget the record of a task; one that still runs goes on and is forgotten at its end."""

    @rpc(reads=True)
    async def list(self) -> list[task.Task]:
        """All tasks that are not forgotten, oldest first; the steps of one that has ended are at `stat`."""

    @rpc(raises=(DoesNotExist,))
    async def destroy_on_finish(self, id: TaskId) -> None:
        """Forget the task when it has ended; at once if it has."""
