# SPDX-License-Identifier: Apache-2.0
"""A small pool of threads that block in hypercalls, each with a handle of its own, opened when it is first needed.

Nobody can interrupt a hypercall. One that does not come back keeps its thread, and nothing else: who asked is told, and
another thread takes the place. What it answers in the end is put back.
"""

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

from xenops.errors import Fault
from xenopsd.backends.xen.libxc import Xc

R = TypeVar("R")
log = logging.getLogger(__name__)

MOST = 16  # threads in all, those that are stuck among them
_END_S = 5.0  # for what is under way when the pool is closed
_WAITS = "a hypercall that waits for a free thread"


class Errand(Generic[R]):
    """Work for one of the threads, and what becomes of it. Made in the event loop that waits for it.

    Told to the loop by one call: a future of threads and its twin in the loop would cost several times as much.
    """

    def __init__(self, work: Callable[[Xc], R], put_back: Callable[[Xc, R], object] | None) -> None:
        self.settled = False  # the loop knows what came of it
        self._work, self._put_back = work, put_back
        self._loop = asyncio.get_running_loop()
        self._waiter: asyncio.Future[None] | None = None
        self._result: R
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._ended = self._given_up = False
        self._xc: Xc | None = None

    @property
    def doing(self) -> str:
        """The call that it is in."""
        return self._xc.under_way if self._xc is not None else _WAITS

    async def stirred(self) -> None:
        """Return when it is settled, or somebody stirs."""
        if not self.settled:
            self._waiter = self._loop.create_future()
            await self._waiter

    def stir(self) -> None:
        """Let who waits look up."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def result(self) -> R:
        """What it answered, once it is settled; its failure is raised."""
        if self._error is not None:
            raise self._error
        return self._result

    def give_up(self) -> bool:
        """Nobody waits any more; false when it has just come to its end. One that had not begun never will."""
        with self._lock:
            self._given_up = not self._ended
            return self._given_up

    @property
    def begun(self) -> bool:
        """Whether a thread has it."""
        return self._xc is not None

    def refuse(self, error: BaseException) -> None:
        """It will not be done, for that reason; from any thread."""
        with self._lock:
            self._ended, self._error = True, error
        self._tell()

    def run(self, open_xc: Callable[[], Xc]) -> bool:
        """Do it, in a thread; whether somebody still waited."""
        xc = open_xc()
        with self._lock:
            if self._given_up:
                return True
            self._xc = xc
        xc.forget_lines()
        began = time.monotonic()
        try:
            self._result = self._work(xc)
        except BaseException as error:  # noqa: BLE001 (raised again by who waits)
            self._error = error
        with self._lock:
            self._ended = not self._given_up
        if self._ended:
            self._tell()
            return True
        if self._error is None and self._put_back is not None:
            _undone(self._put_back, xc, self._result)
        log.warning("%s came back after %.0f s", xc.under_way, time.monotonic() - began)
        return False

    def _tell(self) -> None:
        try:
            self._loop.call_soon_threadsafe(self._settle)
        except RuntimeError:  # the loop is closed
            log.debug("%s came back, and nobody is there", self.doing)

    def _settle(self) -> None:
        self.settled = True
        self.stir()


def _undone(put_back: Callable[[Xc, R], object], xc: Xc, result: R) -> None:
    what = xc.under_way
    try:
        put_back(xc, result)
    except Fault as fault:
        log.error("%s came back too late, and cannot be undone: %s", what, fault)


class Threads:
    """The pool."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._orders: queue.SimpleQueue[Errand[Any] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._asked = self._stuck = 0  # errands that wait or are under way; of these, those that were given up

    def submit(self, work: Callable[[Xc], R], put_back: Callable[[Xc, R], object] | None = None) -> Errand[R]:
        """Have one of the threads do it; `put_back` undoes what came after it was given up."""
        errand = Errand(work, put_back)
        self._orders.put(errand)
        with self._lock:
            self._asked += 1
        self._staff()
        return errand

    def stuck(self) -> None:
        """One of them is lost in a hypercall: another takes its place, as long as there are not too many."""
        with self._lock:
            self._stuck += 1
        self._staff()

    def close(self) -> None:
        """Wait a little for what is under way, drop what waits, close every handle. Idempotent."""
        try:
            while True:
                waiting = self._orders.get_nowait()
                if waiting is not None:
                    waiting.refuse(asyncio.CancelledError())
        except queue.Empty:
            threads = list(self._threads)
        for _ in threads:
            self._orders.put(None)
        end = time.monotonic() + _END_S
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))
            if thread.is_alive():
                log.critical("%s is left behind in a hypercall that does not come back", thread.name)

    def _staff(self) -> None:
        with self._lock:
            if len(self._threads) >= min(self._asked, self._count + self._stuck, MOST):
                return
            thread = threading.Thread(target=self._serve, name=f"xc_{len(self._threads)}", daemon=True)
            self._threads.add(thread)
        thread.start()

    def _serve(self) -> None:
        with ExitStack() as handles:
            opened: list[Xc] = []

            def xc() -> Xc:
                if not opened:
                    opened.append(handles.enter_context(Xc()))
                return opened[0]

            wanted = True
            while wanted and (errand := self._orders.get()) is not None:
                try:
                    wanted = errand.run(xc)
                except BaseException as error:  # noqa: BLE001 (no handle could be opened: raised again by who waits)
                    errand.refuse(error)
                del errand  # with what it answered
                with self._lock:
                    self._asked -= 1
                    self._stuck -= not wanted  # another one has taken its place
        with self._lock:
            self._threads.discard(threading.current_thread())
