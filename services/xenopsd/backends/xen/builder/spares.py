# SPDX-License-Identifier: Apache-2.0
"""The daemon's builder processes: some are always ready, so that no guest waits for one to start.

A builder whose order ended well goes back to the others; after a failure, a cancellation or a deadline it is killed and
another takes its place. More are started only when none has become free for longer than a build takes: builds are bound by the
processor and gain nothing from company, but a save that lasts minutes must not hold them up.
"""

import asyncio
import itertools
import logging
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

from xenops.errors import Fault, HypercallFailed
from xenopsd.backends.xen.builder import orders
from xenopsd.backends.xen.builder.process import BuilderProcess, Questions

log = logging.getLogger(__name__)

PATIENCE_S = 3.0
ANSWER = TypeVar("ANSWER", bound=orders.Answer)


class Builder:
    """One builder process, lent for one order or several in a row."""

    def __init__(self, helper: BuilderProcess) -> None:
        self._helper = helper

    async def build(self, order: orders.Build, *, timeout_s: float = 600) -> orders.Built:
        """Fill the domain. It may be unpaused when the builder has been given back, not before: a PV guest cannot
        make page tables of memory that somebody else has mapped. Raises `HypercallFailed`, `IoError`.
        """
        return await self._perform(order, orders.Built, Questions(), timeout_s)

    async def unpack(self, kernel: Path, *, timeout_s: float = 300) -> Path:
        """See that the kernel's ELF image is in the cache. Raises `IoError`."""
        return Path((await self._perform(orders.Unpack(str(kernel)), orders.Unpacked, Questions(), timeout_s)).path)

    async def save(
        self,
        order: orders.Save,
        suspend: Callable[[], Awaitable[orders.Suspended]],
        *,
        log_dirty: Callable[[bool], Awaitable[bool]] | None = None,
        progress: Callable[[float], None] | None = None,
        timeout_s: float = 7200,
    ) -> orders.Saved:
        """Write the domain's image. What `suspend` raises is raised here, and the guest runs on.

        `log_dirty` is asked for domains with an emulator; without one it is agreed to. Raises `HypercallFailed`, `IoError`.
        """
        questions = Questions(progress or _ignore, suspend, log_dirty or _agree)
        return await self._perform(order, orders.Saved, questions, timeout_s)

    async def restore(
        self,
        order: orders.Restore,
        *,
        progress: Callable[[float], None] | None = None,
        timeout_s: float = 7200,
    ) -> orders.Restored:
        """Fill the domain from an image; as after `build`, unpause when the builder has been given back."""
        return await self._perform(order, orders.Restored, Questions(progress or _ignore), timeout_s)

    async def dump_core(self, order: orders.DumpCore, *, timeout_s: float = 7200) -> orders.Dumped:
        """Write the domain's memory to a core file."""
        return await self._perform(order, orders.Dumped, Questions(), timeout_s)

    async def _perform(
        self, order: orders.Order, expected: type[ANSWER], questions: Questions, timeout_s: float
    ) -> ANSWER:
        await self._helper.release()
        answer = await self._helper.perform(order, questions, timeout_s)
        if not isinstance(answer, expected):
            raise HypercallFailed(f"builder {order.__struct_config__.tag}", "EPROTO", f"it answered {answer!r:.200}")
        return answer


class Builders:
    """The pool. `async with builders.take() as builder: await builder.build(...)`."""

    def __init__(
        self,
        count: int,
        log_dir: Path,
        cache_dir: Path,
        *,
        most: int | None = None,
        program: Sequence[str] = (sys.executable, "-m", "xenopsd.backends.xen.builder"),
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._count = count  # kept ready
        self._most = most or 4 * count
        self._log_dir = log_dir
        self._program = [*program, str(cache_dir)]
        self._patience_s = patience_s
        self._names = itertools.count()
        self._idle: list[BuilderProcess] = []  # the last one given back is taken first: it has the kernel mapped
        self._alive: set[BuilderProcess] = set()
        self._places = 0  # of those that are alive or being started
        self._beside: set[asyncio.Task[None]] = set()  # starting and ending builders
        self._changed = asyncio.Event()
        self._moved_at = 0.0  # when a builder was last taken, became free, was started or was lost
        self._waiting = 0
        self._stopped = True

    @property
    def pids(self) -> set[int]:
        """The processes that there are."""
        return {helper.pid for helper in self._alive}

    async def start(self) -> None:
        """Begin to start the spares; those who come before they are ready wait for them."""
        self._log_dir.mkdir(parents=True, exist_ok=True)
        self._stopped = False
        self._tell()
        self._refill()

    async def settled(self) -> None:
        """Wait until nothing is being started or ended, well or not."""
        while self._beside:
            await asyncio.wait(self._beside)

    async def stop(self) -> None:
        """Kill all of them. Idempotent."""
        self._stopped = True
        beside = list(self._beside)
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await asyncio.gather(*(self._bury(helper) for helper in list(self._alive)))
        self._idle.clear()
        self._places = 0
        self._tell()

    @asynccontextmanager
    async def take(self) -> AsyncIterator[Builder]:
        """A builder, for as long as the block lasts. Raises why none could be started."""
        helper = await self._borrow()
        try:
            yield Builder(helper)
            await helper.release()
        finally:
            if not (helper.idle and helper.alive):
                # Seen to its end by a task of its own: who is cancelled twice leaves no half-buried one.
                await asyncio.shield(self._later(self._bury(helper)))
            elif self._places > self._count and self._waiting == 0:
                self._places -= 1
                self._later(self._let_go(helper))
            else:
                self._idle.append(helper)
                self._tell()

    async def _borrow(self) -> BuilderProcess:
        loop = asyncio.get_running_loop()
        while not self._stopped:
            patient_until = self._moved_at + self._patience_s
            if self._idle:
                helper = self._idle.pop()
                if helper.alive:
                    self._moved_at = loop.time()
                    return helper
                log.warning("an idle builder died: %s", helper.last_words() or "it said nothing")
                await self._bury(helper)
            elif self._places < (self._count if loop.time() < patient_until else self._most):
                self._places += 1
                self._moved_at = loop.time()
                return await self._start_one()
            else:
                await self._wait_for_change(patient_until if self._places < self._most else None)
        raise HypercallFailed("builder", "ESHUTDOWN", "the builders have been stopped")

    async def _wait_for_change(self, until: float | None) -> None:
        self._waiting += 1
        try:
            async with asyncio.timeout_at(until):
                await self._changed.wait()
        except TimeoutError:
            log.info("all %d builders have been busy for %g s", self._places, self._patience_s)
        finally:
            self._waiting -= 1

    async def _start_one(self) -> BuilderProcess:
        """Fill a place that is counted already."""
        try:
            helper = await BuilderProcess.start(self._program, self._log_dir / f"builder-{next(self._names)}.log")
        except BaseException:
            self._places -= 1
            self._tell()
            raise
        self._alive.add(helper)
        return helper

    def _refill(self) -> None:
        while not self._stopped and self._places < self._count:
            self._places += 1
            self._later(self._start_spare())

    async def _start_spare(self) -> None:
        try:
            self._idle.append(await self._start_one())
            self._tell()
        except Fault as fault:
            log.error("no builder could be started: %s", fault)

    async def _let_go(self, helper: BuilderProcess) -> None:
        await helper.end()
        self._alive.discard(helper)

    async def _bury(self, helper: BuilderProcess) -> None:
        await helper.kill()
        self._alive.discard(helper)
        self._places -= 1
        self._refill()
        self._tell()

    def _tell(self) -> None:
        """Wake all who wait; they look again, and are patient anew."""
        self._moved_at = asyncio.get_running_loop().time()
        self._changed.set()
        self._changed = asyncio.Event()

    def _later(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._beside.add(task)
        task.add_done_callback(self._beside.discard)
        return task


def _ignore(done: float) -> None:
    """The progress that nobody asked for."""


async def _agree(enable: bool) -> bool:
    return True
