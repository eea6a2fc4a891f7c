# SPDX-License-Identifier: Apache-2.0
"""Plans are walked as they are drawn, and the way back is taken in reverse."""

import asyncio
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest

from xenops.errors import BadPowerState, Cancelled, StepTimedOut
from xenops.types.task import Completed, Failed
from xenopsd.engine import perform as perform_module
from xenopsd.engine.perform import perform
from xenopsd.engine.plan import NOTHING, Atom, BestEffort, Parallel, Pivot, Plan, atoms, draw, parallel, serial, weight
from xenopsd.engine.tasks import Task


@dataclass
class Log:
    task: Task = field(default_factory=lambda: Task("t-1", "test", vm=None, dbg="", ctime=0, changed=lambda task: None))
    done: list[str] = field(default_factory=list)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)

    def observe(self, name: str, seconds: float) -> None:
        self.done.append("measured")


@dataclass(frozen=True)
class Step(Atom):
    name: str

    async def do(self, cx: Any) -> None:
        cx.done.append(self.name)

    async def undo(self, cx: Any) -> None:
        cx.done.append(f"not {self.name}")


@dataclass(frozen=True)
class Fails(Atom):
    async def do(self, cx: Any) -> None:
        raise BadPowerState("Running", "Halted")


@dataclass(frozen=True)
class Sticky(Atom):
    """It cannot be undone in any time."""

    async def do(self, cx: Any) -> None:
        """Done."""

    async def undo(self, cx: Any) -> None:
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Stuck(Sticky):
    """Nobody waits for that for long."""

    undo_s: ClassVar[float] = 0.01


@dataclass(frozen=True)
class Waits(Atom):
    patience_s: ClassVar[float] = 0.0

    async def do(self, cx: Any) -> None:
        cx.done.append("waiting")
        cx.waiting.set()
        await asyncio.Event().wait()


@dataclass(frozen=True)
class Hangs(Waits):
    timeout_s: ClassVar[float] = 0.01
    patience_s: ClassVar[float] = 4.0


@dataclass(frozen=True)
class Hurried(Waits):
    patience_s: ClassVar[float] = 0.01


def names(log: Log) -> list[str]:
    return [name for name in log.done if name != "measured"]


def failing(plan: Plan, fault: type[Exception]) -> Log:
    log = Log()
    with pytest.raises(fault):
        asyncio.run(perform(plan, log))
    return log


def test_a_failure_is_undone_in_reverse() -> None:
    assert names(failing(serial(Step("a"), Step("b"), Fails(), Step("c")), BadPowerState)) == [
        "a",
        "b",
        "not b",
        "not a",
    ]


def test_an_undo_that_hangs_is_left_and_the_others_are_not() -> None:
    assert names(failing(serial(Step("a"), Stuck(), Step("b"), Fails()), BadPowerState)) == ["a", "b", "not b", "not a"]


def test_the_way_back_has_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform_module, "WAY_BACK_S", 0.01)
    assert names(failing(serial(Step("a"), Sticky(), Step("b"), Fails()), BadPowerState)) == ["a", "b", "not b"]


def test_nothing_before_a_pivot_is_undone() -> None:
    log = failing(serial(Step("a"), Pivot("here"), Step("b"), Fails()), BadPowerState)
    assert names(log) == ["a", "b", "not b"]
    assert not log.task.cancellable


def test_parallel_branches_end_before_the_failure_is_raised() -> None:
    log = failing(serial(Step("a"), parallel(Fails(), serial(Step("b"), Step("c")))), BadPowerState)
    assert names(log) == ["a", "b", "c", "not c", "not b", "not a"]


def test_best_effort_goes_on() -> None:
    log = Log()
    asyncio.run(perform(serial(BestEffort(Fails()), Step("a")), log))
    assert names(log) == ["a"]
    assert [type(s.state) for s in log.task.subtasks] == [Failed, Completed]


def test_a_step_out_of_time_is_a_fault() -> None:
    assert names(failing(serial(Step("a"), Hangs()), StepTimedOut)) == ["a", "waiting", "not a"]


def test_cancel_ends_a_waiting_step_at_once() -> None:
    async def run() -> Log:
        log = Log()
        running = asyncio.create_task(perform(serial(Step("a"), Waits(), Step("b")), log))
        await log.waiting.wait()
        assert log.task.cancel()
        with pytest.raises(Cancelled):
            await running
        return log

    assert names(asyncio.run(run())) == ["a", "waiting", "not a"]


def test_cancel_cuts_a_step_that_outlasts_its_patience() -> None:
    async def run() -> Log:
        log = Log()
        running = asyncio.create_task(perform(serial(Step("a"), Hurried()), log))
        await log.waiting.wait()
        assert log.task.cancel()
        assert log.task.cancel(), "a second cancel changes nothing"
        with pytest.raises(Cancelled):
            await running
        return log

    assert names(asyncio.run(run())) == ["a", "waiting", "not a"]


@pytest.mark.parametrize("n", [1, 2, 3])
def test_cancel_at_each_point(n: int) -> None:
    log = Log()
    log.task.cancel_at = n
    with pytest.raises(Cancelled):
        asyncio.run(perform(serial(Step("a"), Step("b"), Step("c")), log))
    done = ["a", "b", "c"][: n - 1]
    assert names(log) == done + [f"not {name}" for name in reversed(done)]


def test_progress_is_by_weight() -> None:
    log = Log()
    asyncio.run(perform(serial(Step("a"), Step("b")), log))
    assert log.task.record().state.progress == 1.0  # type: ignore[union-attr]


def test_plans_are_flat_and_drawn() -> None:
    plan = serial(
        Step("a"),
        serial(Step("b"), NOTHING),
        parallel(Step("c"), NOTHING),
        parallel(Step("d"), Step("e")),
        Pivot("now"),
    )
    assert [a.name for a in atoms(plan) if isinstance(a, Step)] == list("abcde")
    assert weight(plan) == 5.0
    assert isinstance(parallel(Step("d"), Step("e")), Parallel)
    assert draw(
        serial(Step("a"), parallel(Step("b"), serial(Step("c"), Fails())), BestEffort(Fails()), Pivot("now"))
    ) == (
        "test_perform.Step   (can go back)\ntogether:\n  test_perform.Step   (can go back)\n  -\n"
        "    test_perform.Step   (can go back)\n    test_perform.Fails\nif possible:\n  test_perform.Fails\n---- now\n"
    )
