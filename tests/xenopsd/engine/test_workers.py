# SPDX-License-Identifier: Apache-2.0
"""Jobs are written down before they are accepted, and have an end, whoever cancels, stops or fails meanwhile."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from xenops.errors import Busy, Cancelled, IoError
from xenops.types.task import Completed, Failed, TaskState
from xenopsd.engine.perform import perform
from xenopsd.engine.plan import Atom, Plan, parallel, serial
from xenopsd.engine.tasks import Task, Tasks
from xenopsd.engine.workers import Job, Workers


@dataclass
class Paper:
    """A journal that writes when it is let."""

    gate: asyncio.Event = field(default_factory=asyncio.Event)
    written: list[str] = field(default_factory=list)
    broken: bool = False

    async def accept(self, task: Task, payload: bytes, message_id: str | None, *, begun: bool) -> None:
        await self.gate.wait()
        if self.broken:
            raise IoError("paper", "is wet")
        self.written.append(f"{task.operation} accepted{' and begun' if begun else ''}")

    async def begin(self, task: Task) -> None:
        self.written.append(f"{task.operation} begun")

    async def finish(self, task: Task, state: TaskState) -> None:
        assert not task.ended, "its end was told before it was written"
        self.written.append(f"{task.operation} {type(state).__name__}")

    def forget(self, task: Task) -> None:
        self.written.append(f"{task.operation} forgotten")


@dataclass
class Floor:
    """Workers with paper and tasks, and what was done."""

    paper: Paper = field(default_factory=Paper)
    done: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.tasks = Tasks(started_ms=1, changed=lambda task: None, removed=lambda t: self.removed.append(t.operation))
        self.workers = Workers(self.tasks, self.paper, size=2, queue_limit=2)
        self.paper.gate.set()

    def observe(self, name: str, seconds: float) -> None:
        """Not of interest."""

    def job(self, name: str, plan: Plan, tag: str = "a") -> Job:
        async def run(task: Task) -> None:
            self.task = task
            await perform(plan, self)

        return Job(tag, self.tasks.new(name, vm=tag), run, payload=b"x")


@dataclass(frozen=True)
class Step(Atom):
    name: str
    waits: bool = False
    undo_waits: bool = False
    undo_breaks: bool = False

    async def do(self, cx: Any) -> None:
        if self.waits:
            cx.reached.set()
            await cx.let_go.wait()
        cx.done.append(self.name)

    async def undo(self, cx: Any) -> None:
        if self.undo_breaks:
            raise KeyError(self.name)
        if self.undo_waits:
            cx.reached.set()
            await cx.let_go.wait()
        cx.done.append(f"not {self.name}")


@dataclass(frozen=True)
class Fails(Atom):
    async def do(self, cx: Any) -> None:
        raise IoError("disk", "broke")


def on_a_floor(work: Callable[[Floor], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(10):
            floor = Floor()
            await work(floor)
            await floor.workers.stop(5.0)

    asyncio.run(run())


def test_an_accepted_job_is_written_down_at_every_turn() -> None:
    async def work(floor: Floor) -> None:
        await floor.workers.submit(floor.job("first", Step("1", waits=True)))
        waiting = await floor.workers.submit(floor.job("second", Step("2")))
        assert floor.paper.written == ["first accepted and begun", "second accepted"]
        floor.let_go.set()
        await waiting.wait(5.0)
        assert floor.paper.written[2:] == ["first Completed", "second begun", "second Completed"]

    on_a_floor(work)


def test_nothing_is_done_before_it_is_written_down_and_nothing_that_is_not() -> None:
    async def work(floor: Floor) -> None:
        floor.paper.gate.clear()
        submitting = [asyncio.create_task(floor.workers.submit(floor.job(n, Step(n)))) for n in ("first", "second")]
        await asyncio.sleep(0)
        assert floor.done == []
        floor.paper.broken = True
        floor.paper.gate.set()
        for it in submitting:
            with pytest.raises(IoError):
                await it
        floor.paper.broken = False
        task = await floor.workers.submit(floor.job("third", Step("third")))
        await task.wait(5.0)
        assert floor.done == ["third"]
        assert sorted(floor.removed) == ["first", "second"]
        assert list(floor.tasks) == [task]

    on_a_floor(work)


def test_a_full_queue_and_a_stop_refuse_what_comes() -> None:
    async def work(floor: Floor) -> None:
        for name in ("runs", "waits", "waits too"):
            await floor.workers.submit(floor.job(name, Step(name, waits=True)))
        with pytest.raises(Busy):
            await floor.workers.submit(floor.job("one too many", Step("never")))
        stopping = asyncio.create_task(floor.workers.stop(5.0))
        await asyncio.sleep(0)
        with pytest.raises(Busy):
            await floor.workers.submit(floor.job("late", Step("never"), tag="b"))
        floor.let_go.set()
        await stopping
        assert floor.done == ["runs"], "what waits is for the next life"
        assert floor.paper.written[-1] == "runs Completed"
        assert floor.removed == ["one too many", "late"]

    on_a_floor(work)


def test_who_cancels_what_waits_may_leave() -> None:
    async def work(floor: Floor) -> None:
        await floor.workers.submit(floor.job("runs", Step("1", waits=True)))
        waiting = await floor.workers.submit(floor.job("waits", Step("2")))
        cancelling = asyncio.create_task(floor.workers.cancel(waiting))
        await asyncio.sleep(0)
        cancelling.cancel()
        await waiting.wait(5.0)
        assert isinstance(waiting.state, Failed)
        assert waiting.state.fault.name == "Cancelled"
        assert "waits Failed" in floor.paper.written
        floor.let_go.set()

    on_a_floor(work)


def test_a_cancel_during_parallel_steps_lets_them_end_and_goes_back() -> None:
    async def work(floor: Floor) -> None:
        plan = serial(Step("0"), parallel(Step("1", waits=True), Step("2")), Step("3"))
        task = await floor.workers.submit(floor.job("start", plan))
        await floor.reached.wait()
        await floor.workers.cancel(task)
        assert not task.ended
        floor.let_go.set()
        await task.wait(5.0)
        assert isinstance(task.state, Failed)
        assert task.state.fault.name == Cancelled.__name__
        assert floor.done[:1] + floor.done[-1:] == ["0", "not 0"]
        assert sorted(floor.done[1:-1]) == ["1", "2", "not 1", "not 2"]

    on_a_floor(work)


def test_cancel_and_stop_wait_for_the_way_back() -> None:
    async def work(floor: Floor) -> None:
        task = await floor.workers.submit(floor.job("start", serial(Step("1"), Step("2", undo_waits=True), Fails())))
        await floor.reached.wait()
        await floor.workers.cancel(task)
        stopping = asyncio.create_task(floor.workers.stop(5.0))
        ended, _ = await asyncio.wait((stopping,), timeout=0.1)
        assert not ended, "the world would be closed under the way back"
        floor.let_go.set()
        await stopping
        assert floor.done == ["1", "2", "not 2", "not 1"]

    on_a_floor(work)


@pytest.mark.parametrize("fails_by_itself", [True, False])
def test_a_way_back_that_hangs_does_not_hold_up_the_stop(fails_by_itself: bool) -> None:
    async def work(floor: Floor) -> None:
        last = Fails() if fails_by_itself else Step("3", waits=True)
        plan = serial(Step("1"), Step("2", undo_waits=True), last)
        task = await floor.workers.submit(floor.job("start", plan))
        await floor.reached.wait()
        began = time.monotonic()
        await floor.workers.stop(0.1)
        assert 0.2 <= time.monotonic() - began < 1.0, "twice the time, and no more"
        assert floor.workers.is_idle("a")
        assert floor.paper.written == ["start accepted and begun"], "the next life must find it as interrupted"
        assert not task.ended
        assert floor.done == ["1", "2"]

    on_a_floor(work)


def test_what_hangs_is_cut_and_undone_before_the_stop() -> None:
    async def work(floor: Floor) -> None:
        await floor.workers.submit(floor.job("start", serial(Step("1"), Step("2", waits=True))))
        await floor.reached.wait()
        await floor.workers.stop(0.1)
        assert floor.done == ["1", "not 1"]

    on_a_floor(work)


def test_a_mistake_on_the_way_back_is_not_the_end_of_it() -> None:
    async def work(floor: Floor) -> None:
        plan = serial(Step("1"), Step("2", undo_breaks=True), Fails())
        task = await floor.workers.submit(floor.job("start", plan))
        await task.wait(5.0)
        assert floor.done == ["1", "2", "not 1"]
        assert isinstance(task.state, Failed)
        assert task.state.fault.name == "IoError"

    on_a_floor(work)


def test_a_result_that_cannot_be_written_down_leaves_nobody_waiting() -> None:
    async def work(floor: Floor) -> None:
        async def finish(task: Task, state: TaskState) -> None:
            if isinstance(state, Completed):
                raise TypeError("this result cannot be encoded")

        floor.paper.finish = finish  # type: ignore[method-assign]
        task = await floor.workers.submit(floor.job("odd", Step("1")))
        await task.wait(5.0)
        assert isinstance(task.state, Failed)
        assert task.state.fault.name == "InternalError"
        assert floor.workers.is_idle("a")

    on_a_floor(work)
