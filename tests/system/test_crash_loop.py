# SPDX-License-Identifier: Apache-2.0
"""Callers who work while xenopsd and the switch are killed again and again; nothing accepted is forgotten.

Each request carries a message id of its own and is sent until it is answered, as a careful orchestrator does. The
seeds are fixed: what the callers ask and when the killer strikes is the same every time, what coincides is not.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from deploy.local.stack import Stack
from tests.xenopsd.machines import plain_vm
from tests.xenopsd.steps.samples import ALL
from xenops import wire
from xenops.client import Xenops, connect
from xenops.errors import Busy, DoesNotExist, Fault, ServiceFault, TimedOut
from xenops.idl import methods
from xenops.interfaces.xenops import VBD, VM
from xenops.rpc import request
from xenops.types import task as wire_task
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.task import Completed, Failed, Pending, TaskState
from xenops.types.vbd import Vbd
from xenops.types.vm import PowerState

CALLERS = 4
KILLS = 6
PROGRAMS = ["message-switch", "forkexecd", "xenopsd"]
VICTIMS = [["xenopsd"], ["message-switch"], ["xenopsd", "message-switch"], PROGRAMS]  # first, and chance decides then
SEEDS = range(1, 13 if ALL else 3)  # twelve of them for `make test-crash`
METHODS = {**methods(VM), **methods(VBD)}
# How an accepted operation may end here: the fault of a state that a kill left behind, or the kill itself.
FAULTS = {"Interrupted", "BadPowerState", "DoesNotExist"}
LATENCY = ("--simulator-latency=vm.create:15", "--simulator-latency=vbd.plug:25", "--simulator-latency=vm.destroy:15")


@dataclass
class Caller:
    """One orchestrator with two machines of its own."""

    name: str
    xenops: Xenops
    chance: random.Random
    until: asyncio.Event
    accepted: list[tuple[str, str]] = field(default_factory=list)  # task, and the method that asked for it
    told: dict[str, TaskState] = field(default_factory=dict)  # the ends of tasks, as they were seen under way
    registered: set[str] = field(default_factory=set)
    answers: Counter[str] = field(default_factory=Counter)
    asked: int = 0

    async def ask(self, name: str, *args: Any) -> Any:
        """The answer to a request, sent with one message id until it is answered; twice, to see that both are alike."""
        method = METHODS[name]
        message = request(method, args, {})
        self.asked += 1
        message.message_id = f"{self.name}-{self.asked}"
        first = await self._answer(message)
        if self.chance.random() < 0.3:
            second = await self._answer(message)
            assert second == first, f"{name}: the repeated request has an outcome of its own"
        return wire.decode_result(first, method.result)

    async def _answer(self, message: Any) -> bytes:
        while True:
            try:
                body = (await self.xenops.bus.call(self.xenops.queue, message, timeout_s=1.0)).body
                wire.decode_result(body, object)
                return body
            except (ServiceFault, Busy) as fault:
                self.answers[fault.name] += 1
                await asyncio.sleep(0.02)
            except Fault:
                return body

    async def work(self) -> None:
        """Add, start, shut down and remove, at random, until told to stop."""
        while not self.until.is_set():
            vm = f"{self.name}-{self.chance.randrange(2)}"
            try:
                await self._one(vm, self.chance.choice(("add", "start", "start", "shutdown", "reboot", "remove")))
                self.answers["ok"] += 1
            except Fault as fault:
                if fault.name not in FAULTS:
                    raise
                self.answers[fault.name] += 1

    async def _one(self, vm: str, verb: str) -> None:
        if verb == "add":
            await self.ask("VM.add", plain_vm(vm))
            self.registered.add(vm)
            await self.ask("VBD.add", Vbd(id=DeviceId(vm=vm, dev="xvda"), backend=Local(path="/dev/a")))
        elif verb == "remove":
            try:
                await self.ask("VM.remove", vm)
            except DoesNotExist:
                assert vm not in self.registered, f"{vm} was removed, and a kill took the answer with it"
                raise
            self.registered.discard(vm)
        else:
            self.accepted.append((await self.ask(f"VM.{verb}", vm), f"VM.{verb}"))
            if self.chance.random() < 0.5:
                task = self.accepted[-1][0]
                self.told[task] = (await self.ended(task)).state

    async def ended(self, task: str) -> wire_task.Task:
        """A task once it has ended; that it was accepted and is not known is what must never be."""
        while True:
            try:
                found = await self.xenops.Task.wait(task, timeout=1.0)
                if not isinstance(found.state, Pending):
                    return found
            except (ServiceFault, Busy):
                await asyncio.sleep(0.02)


async def killer(stack: Stack, chance: random.Random) -> None:
    """Ends processes without warning, every now and then: one, some or all of them together."""
    for n in range(KILLS):
        await asyncio.sleep(chance.uniform(0.15, 0.7))
        victims = VICTIMS[n] if n < len(VICTIMS) else chance.sample(PROGRAMS, chance.randint(1, len(PROGRAMS)))
        dead = [await stack.kill(program) for program in victims]
        for part in sorted(dead, key=lambda part: PROGRAMS.index(part.program)):
            await stack.start_again(part)


async def truth(caller: Caller) -> None:
    """What is left must be whole: every task has its end, and every machine is there once and can be used."""
    ids = [task for task, _ in caller.accepted]
    assert len(set(ids)) == len(ids), "two requests have one task"
    for task, method in caller.accepted:
        found = await caller.ended(task)
        assert found.operation == method
        assert found.state == caller.told.get(task, found.state), "its end is another one than was told before"
        assert all(not isinstance(step.state, Pending) for step in found.subtasks) or isinstance(found.state, Failed)
        if isinstance(found.state, Failed):
            assert found.state.fault.name in FAULTS, found
        else:
            assert isinstance(found.state, Completed)


async def usable(xenops: Xenops, vm: str) -> None:
    """It can be stopped if it runs, started, stopped and removed."""
    if (await xenops.VM.stat(vm)).state.power_state is not PowerState.HALTED:
        await xenops.finished(await xenops.VM.shutdown(vm))
    await xenops.finished(await xenops.VM.start(vm))
    assert (await xenops.VM.stat(vm)).state.power_state is PowerState.PAUSED
    await xenops.finished(await xenops.VM.shutdown(vm))
    assert (await xenops.VM.stat(vm)).state.power_state is PowerState.HALTED


async def crash_loop(stack: Stack, seed: int) -> None:
    found = await stack.start()
    until = asyncio.Event()
    async with connect(url=found.amqp, queue=found.queue) as xenops:
        empty = await xenops.HOST.stat()
        callers = [Caller(f"s{seed}c{n}", xenops, random.Random(100 * seed + n), until) for n in range(CALLERS)]
        working = [asyncio.create_task(caller.work()) for caller in callers]
        await killer(stack, random.Random(seed))
        until.set()
        await asyncio.gather(*working)
        for caller in callers:
            await truth(caller)
        assert sum((caller.answers for caller in callers), Counter())["ok"] > 50
        registered = sorted(id for caller in callers for id in caller.registered)
        assert sorted(stat.vm.id for stat in await xenops.VM.list()) == registered
        await asyncio.gather(*(usable(xenops, vm) for vm in registered))
        assert (await xenops.HOST.stat()).memory_free == empty.memory_free, "a half-built domain is left behind"
        accepted = {task for caller in callers for task, _ in caller.accepted}
        assert {task.id for task in await xenops.Task.list()} == accepted, "a request ran twice, or its task is lost"


async def answers(xenops: Xenops) -> bool:
    """Whether xenopsd takes requests now."""
    try:
        await Xenops(xenops.bus, xenops.queue, timeout_s=0.2).query()
    except TimedOut:
        return False
    return True


async def stop_and_start(stack: Stack, var: Path) -> None:
    """xenopsd is told to stop while a hook runs and more waits: that one ends, and the rest is for the next life."""
    found = await stack.start()
    for name in ("vm-pre-start", "vm-pre-shutdown"):
        (var / "hooks.d" / name).mkdir(parents=True)
        hook = var / "hooks.d" / name / "10-wait"
        hook.write_text(f"#!/bin/sh\ntouch {var}/{name}\nwhile [ ! -e {var}/go ]; do sleep 0.02; done\n")
        hook.chmod(0o755)
    async with connect(url=found.amqp, queue=found.queue) as xenops:
        await xenops.VM.add(plain_vm("vm-1"))
        tasks = [await xenops.VM.start("vm-1"), await xenops.VM.shutdown("vm-1")]
        while not (var / "vm-pre-start").exists():
            await xenops.Task.wait(tasks[0], 0.05)
        part, process = next(it for it in stack.running if it[0].program == "xenopsd")
        process.terminate()
        while await answers(xenops):  # it stops answering at once, and waits for the hook
            continue
        (var / "go").touch()
        assert await process.wait() == 0
        stack.running.remove((part, process))
        await stack.start_again(part)
        for task in tasks:
            assert isinstance((await xenops.Task.wait(task, 10.0)).state, Completed)
        assert (var / "vm-pre-shutdown").exists(), "the hook of what had waited ran, although the switch came later"


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_accepted_is_forgotten(tmp_path: Path, seed: int) -> None:
    with_stack(tmp_path, lambda stack: crash_loop(stack, seed))


def test_a_stop_is_no_crash(tmp_path: Path) -> None:
    with_stack(tmp_path, lambda stack: stop_and_start(stack, tmp_path))


def with_stack(path: Path, work: Callable[[Stack], Awaitable[None]]) -> None:
    async def run() -> None:
        stack = Stack(path, log_to=path / "log", further=LATENCY)
        try:
            async with asyncio.timeout(50):
                await work(stack)
        except BaseException:
            print((path / "log").read_text(errors="replace")[-20000:])
            raise
        finally:
            await stack.stop()

    asyncio.run(run())
