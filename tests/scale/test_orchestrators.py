# SPDX-License-Identifier: Apache-2.0
"""64 orchestrators at once on a full host, during storms, while one listener stands still: each request has exactly one answer.

They live whole lives of machines on the real switch; once with the switch killed in the middle.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.local.stack import Stack
from tests.scale.crowd import fill
from tests.scale.sizes import LIVES, ORCHESTRATORS, PATIENCE_S, REGISTERED, RUNNING
from tests.scale.test_subscribers import standing_still
from tests.xenopsd.machines import plain_vm
from xenops.bus.calls import Calls
from xenops.client import Xenops, connect
from xenops.types.task import Completed
from xenops.types.vm import PowerState
from xenops.where import Where

pytestmark = pytest.mark.timeout(PATIENCE_S + 10)
STORMS = 5
IN_A_LIFE = 6  # requests; a wait for a task that lasts longer than a poll may be asked again


@dataclass
class Answers:
    """How often each request of this process was sent, and answered."""

    sent: Counter[tuple[int, int]] = field(default_factory=Counter)
    answered: Counter[tuple[int, int]] = field(default_factory=Counter)

    def count(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """From now on."""
        send, answer = Calls.sent, Calls.answered

        def sent(calls: Calls[Any], call: Any, tag: int) -> None:
            self.sent[id(calls), call.number] += 1
            send(calls, call, tag)

        def answered(calls: Calls[Any], number: int) -> Any:
            self.answered[id(calls), number] += 1
            return answer(calls, number)

        monkeypatch.setattr(Calls, "sent", sent)
        monkeypatch.setattr(Calls, "answered", answered)

    def agree(self) -> None:
        """Nothing was left unanswered, and nobody was answered who had not asked."""
        assert set(self.answered) == set(self.sent)
        assert len(self.sent) >= ORCHESTRATORS * LIVES * IN_A_LIFE


@dataclass
class Orchestrator:
    """One of them: what it asked for, and which tasks it was told of."""

    name: str
    xenops: Xenops
    tasks: list[str] = field(default_factory=list)

    async def live(self, n: int) -> None:
        """One life of a machine."""
        vm = plain_vm(f"{self.name}-{n}")
        assert not (await self.xenops.VM.add(vm)).updated
        await self._done(await self.xenops.VM.start(vm.id))
        await self._done(await self.xenops.VM.shutdown(vm.id))
        await self.xenops.VM.remove(vm.id)

    async def _done(self, task: str) -> None:
        self.tasks.append(task)
        while not isinstance((found := await self.xenops.Task.wait(task)).state, Completed):
            assert found.state.__class__.__name__ == "Pending", found


def on_a_full_host(path: Path, work: Callable[[Stack, Where, Xenops], Awaitable[None]]) -> None:
    async def run() -> None:
        stack = Stack(path, log_level="warning", log_to=path / "log")
        try:
            async with asyncio.timeout(PATIENCE_S):
                found = await stack.start()
                async with connect(url=found.amqp, queue=found.queue, timeout_s=PATIENCE_S) as xenops:
                    await fill(xenops)
                    await work(stack, found, xenops)
        except BaseException:
            print((path / "log").read_text(errors="replace"))
            raise
        finally:
            await stack.stop()

    asyncio.run(run())


async def all_of_them(found: Where, kept: list[Xenops]) -> list[str]:
    """64 connections, each with its lives; the tasks of which they were told. They are `kept`: no two have one id."""

    async def one(n: int) -> list[str]:
        async with connect(url=found.amqp, queue=found.queue, timeout_s=PATIENCE_S) as xenops:
            orchestrator = Orchestrator(f"orchestrator-{n}", xenops)
            kept.append(xenops)
            for life in range(LIVES):
                await orchestrator.live(life)
            return orchestrator.tasks

    tasks = await asyncio.gather(*(one(n) for n in range(ORCHESTRATORS)))
    return [task for told in tasks for task in told]


async def nothing_is_left(xenops: Xenops, tasks: list[str]) -> None:
    """Every operation ran once, and the host is what it was."""
    known = [task.id for task in await xenops.Task.list()]
    assert sorted(known) == sorted(tasks), "an operation that nobody was told of, or one that ran twice"
    assert len(set(tasks)) == len(tasks) == 2 * ORCHESTRATORS * LIVES
    states = Counter(it.state.power_state for it in await xenops.VM.list())
    assert states == {PowerState.RUNNING: RUNNING, PowerState.HALTED: REGISTERED - RUNNING}


def test_every_request_is_answered_exactly_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, kept = Answers(), list[Xenops]()

    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        with standing_still(found.amqp):
            answers.count(monkeypatch)
            living = asyncio.create_task(all_of_them(found, kept))
            for _ in range(STORMS):
                await xenops.DEBUG.trigger("storm", ["3"])
            tasks = await living
        answers.agree()
        assert set(answers.sent.values()) == set(answers.answered.values()) == {1}
        await nothing_is_left(xenops, tasks)

    on_a_full_host(tmp_path, work)


def test_with_the_switch_killed_every_operation_runs_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answers, kept = Answers(), list[Xenops]()

    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        answers.count(monkeypatch)
        living = asyncio.create_task(all_of_them(found, kept))
        token = await xenops.UPDATES.last_id()
        await xenops.UPDATES.get(token)  # something is under way
        await stack.start_again(await stack.kill("message-switch"))
        await nothing_is_left(xenops, await living)
        answers.agree()

    on_a_full_host(tmp_path, work)
