# SPDX-License-Identifier: Apache-2.0
"""One machine on its way to here, as far as it has come."""

import asyncio
from collections.abc import Callable

from xenops.interfaces.xenops.migration import Accepted
from xenopsd.engine.tasks import Task
from xenopsd.migration.door import Expected
from xenopsd.migration.handshake import DESTINATION, Destination, End
from xenopsd.store.machine import Machine
from xenopsd.store.migrations import Crossing


class Arrival:
    """The destination's end of one migration."""

    def __init__(self, crossing: Crossing, machine: Machine, state: Destination) -> None:
        self.crossing, self.machine = crossing, machine
        self.end: End[Destination] = End(DESTINATION, state)
        self.expected: Expected | None = None
        self.accepted: Accepted | None = None
        self.task: Task | None = None  # that receives it
        self.given = False  # the source has decided, and we know
        self.settled = False  # ours, and unpaused unless that failed
        self.runs = False  # or is paused, as it was
        self._news = asyncio.Event()

    @property
    def id(self) -> str:
        """The migration's id."""
        return self.crossing.id

    @property
    def vm(self) -> str:
        """The machine's id."""
        return self.crossing.vm

    def tell(self) -> None:
        """Something of it has changed."""
        self._news.set()
        self._news = asyncio.Event()

    async def until(self, done: Callable[[], bool], timeout_s: float) -> bool:
        """Wait until that is so; false when it is not by then."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while not done():
            try:
                async with asyncio.timeout_at(deadline):
                    await self._news.wait()
            except TimeoutError:
                return done()
        return True
