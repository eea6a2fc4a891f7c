# SPDX-License-Identifier: Apache-2.0
"""A small pool of threads that block in hypercalls, each with a handle of its own, opened when it is first needed.

Nobody can interrupt a hypercall. One that does not come back keeps its thread, and nothing else: who asked is told, and
another thread takes the place. What it answers in the end is put back.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
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
    """Work for one of the threads, and what becomes of it."""

    def __init__(self, work: Callable[[Xc], R], put_back: Callable[[Xc, R], object] | None) -> None:
        self.future: Future[R] = Future()
        self._work, self._put_back = work, put_back
        self._given_up = False
        self._lock = threading.Lock()
        self._xc: Xc | None = None

    @property
    def doing(self) -> str:
        """The call that it is in."""
        return self._xc.under_way if self._xc is not None else _WAITS

    def give_up(self) -> bool:
        """Nobody waits any more; false when it has just come to its end. One that had not begun never will."""
        with self._lock:
            self._given_up = self.future.cancel() or not self.future.done()
            return self._given_up

    def run(self, xc: Xc) -> bool:
        """Do it, in a thread; whether somebody still waited."""
        self._xc, began = xc, time.monotonic()
        try:
            result = self._work(xc)
        except BaseException as error:  # noqa: BLE001 (raised again by who waits)
            with self._lock:
                self.future.set_exception(error)
        else:
            with self._lock:
                self.future.set_result(result)
            if self._given_up and self._put_back is not None:
                _undone(self._put_back, xc, result)
        if self._given_up:
            log.warning("%s came back after %.0f s", xc.under_way, time.monotonic() - began)
        return not self._given_up


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
                    waiting.future.cancel()
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
            xc: Xc | None = None
            wanted = True
            while wanted and (errand := self._orders.get()) is not None:
                try:
                    if errand.future.set_running_or_notify_cancel():
                        xc = xc or handles.enter_context(Xc())
                        xc.forget_lines()
                        wanted = errand.run(xc)
                except BaseException as error:  # noqa: BLE001 (no handle could be opened: raised again by who waits)
                    errand.future.set_exception(error)
                del errand  # with what it answered
                with self._lock:
                    self._asked -= 1
                    self._stuck -= not wanted  # another one has taken its place
        with self._lock:
            self._threads.discard(threading.current_thread())
