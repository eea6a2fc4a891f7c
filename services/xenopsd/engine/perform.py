# SPDX-License-Identifier: Apache-2.0
"""Performs a plan: takes its steps, and goes the way back when one fails.

A cancel lets a step end by itself for as long as the step's `patience_s`, and then cuts it, as its time limit would. The
way back is not cut short by a second cancel, but each undo has the step's `undo_s` and all of them together `WAY_BACK_S`: what
they leave is for the check. A daemon that has no more time to stop gives it up, and the next life makes good what is left.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any, Protocol

from xenops.errors import Cancelled, Fault, StepTimedOut
from xenops.types.task import Completed
from xenopsd.engine.plan import Atom, BestEffort, Parallel, Pivot, Plan, Serial, weight
from xenopsd.engine.tasks import Task, failed

log = logging.getLogger(__name__)

WAY_BACK_S = 120.0


class Context(Protocol):
    """What steps are given; this floor needs to know only the task."""

    @property
    def task(self) -> Task:
        """On whose behalf."""

    @property
    def observe(self) -> Callable[[str, float], None]:
        """Told of every step's name and seconds."""


async def perform(plan: Plan, cx: Context) -> None:
    """Take the plan's steps; on a failure undo what can be undone, then raise it."""
    cx.task.expect(weight(plan))
    done: list[Atom] = []
    try:
        await _walk(plan, cx, done)
    except BaseException:
        with cx.task.goes_back(asyncio.ensure_future(_unwind(done, cx))) as unwinding:
            await _to_its_end(unwinding)
        raise


async def _to_its_end(unwinding: "asyncio.Future[None]") -> None:
    """Wait for the way back even when we are cancelled meanwhile: nobody may close the world under it."""
    cancelled: asyncio.CancelledError | None = None
    while not unwinding.done():
        try:
            await asyncio.shield(unwinding)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _walk(plan: Plan, cx: Context, done: list[Atom]) -> None:
    match plan:
        case Atom():
            await _step(plan, cx)
            done.append(plan)
        case Serial(steps):
            for step in steps:
                await _walk(step, cx, done)
        case Parallel(steps):
            ends = await asyncio.gather(*(_walk(step, cx, done) for step in steps), return_exceptions=True)
            for end in ends:
                if end is not None:
                    raise end
        case BestEffort(step):
            try:
                await _walk(step, cx, done)
            except Cancelled:
                raise
            except Fault as fault:
                log.warning("could not %s, going on: %s", step.label if isinstance(step, Atom) else "do all", fault)
        case Pivot():
            cx.task.checkpoint()
            cx.task.pass_pivot()
            done.clear()


async def _step(atom: Atom, cx: Context) -> None:
    task = cx.task
    task.checkpoint()
    name = f"{atom.label} {atom.about}".rstrip()
    task.begin(name)
    began = time.perf_counter()
    try:
        async with asyncio.timeout(atom.timeout_s) as limit:
            with task.interrupts(limit, atom.patience_s):
                await atom.do(cx)
    except TimeoutError:
        cut = limit.expired() and task.cancelling
        fault = Cancelled(task.id) if cut else StepTimedOut(name, atom.timeout_s)
        task.end_step(name, failed(fault))
        raise fault from None
    except Fault as fault:
        task.end_step(name, failed(fault))
        raise
    seconds = time.perf_counter() - began
    cx.observe(atom.label, seconds)
    task.end_step(name, Completed(duration_s=round(seconds, 6)))
    task.advance(atom.weight)


async def _unwind(done: list[Atom], cx: Context) -> None:
    """Undo the steps, the last one first; what cannot be undone is for `check` to reconcile."""
    try:
        async with asyncio.timeout(WAY_BACK_S):
            for atom in reversed(done):
                if hasattr(atom, "undo"):
                    await _undo(atom, cx)
    except TimeoutError:
        log.warning("the way back took too long, and the rest of it is left to the check")


async def _undo(atom: Any, cx: Context) -> None:
    try:
        async with asyncio.timeout(atom.undo_s):
            await atom.undo(cx)
    except (Fault, TimeoutError) as error:
        log.warning("%s could not be undone: %s", atom.label, error or "out of time")
    except Exception:  # a mistake of ours must not keep the steps before it from being undone
        log.exception("%s could not be undone", atom.label)
