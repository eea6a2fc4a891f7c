# SPDX-License-Identifier: Apache-2.0
"""The client's asynchronous face over the bus of one process."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from xenops.blocking import connect_blocking
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import Message
from xenops.client import Xenops, connect
from xenops.errors import BadPowerState, DoesNotExist, TimedOut, encode
from xenops.events import Change, Event, Kind, topic
from xenops.events import encode as encode_event
from xenops.interfaces.xenops import Task
from xenops.rpc import Dispatcher
from xenops.types import task as types

QUEUE = "xenops.h.simulator"


class Tasks:
    """A task that goes through some states, one a poll."""

    def __init__(self, *states: types.TaskState) -> None:
        self.states = list(states)
        self.destroyed: list[str] = []
        self.polls: list[float] = []

    async def wait(self, id: str, timeout: float = 30.0) -> types.Task:
        self.polls.append(timeout)
        state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
        return types.Task(id=id, operation="VM.start", ctime=0, state=state)

    async def destroy(self, id: str) -> None:
        self.destroyed.append(id)
        if id == "gone":
            raise DoesNotExist("task", id)

    async def stat(self, id: str) -> types.Task:
        raise NotImplementedError

    async def cancel(self, id: str) -> None:
        raise NotImplementedError

    async def list(self) -> list[types.Task]:
        raise NotImplementedError

    async def destroy_on_finish(self, id: str) -> None:
        raise NotImplementedError


def failed(fault: Any) -> types.Failed:
    return types.Failed(fault=types.FaultRecord(**encode(fault)))


def run(tasks: Tasks, test: Callable[[Xenops], Coroutine[Any, Any, None]]) -> None:
    async def whole() -> None:
        switch = MemorySwitch()
        server = MemoryBus(switch)
        await server.connect()
        await server.serve(QUEUE, Dispatcher([(Task, tasks)]).answer)
        async with asyncio.timeout(10), Xenops(MemoryBus(switch), QUEUE, timeout_s=5) as xenops:
            await test(xenops)
        await server.close()

    asyncio.run(whole())


def test_a_finished_task_gives_its_result_and_is_removed() -> None:
    tasks = Tasks(types.Pending(progress=0.25), types.Pending(progress=0.5), types.Completed(duration_s=1, result=[1]))
    progress: list[float] = []

    async def test(xenops: Xenops) -> None:
        assert await xenops.finished("t", on_progress=progress.append) == [1]

    run(tasks, test)
    assert progress == [0.25, 0.5, 1.0]
    assert tasks.destroyed == ["t"]


def test_a_task_without_a_result_gives_none_even_if_its_record_has_gone() -> None:
    tasks = Tasks(types.Completed(duration_s=1))

    async def test(xenops: Xenops) -> None:
        assert await xenops.finished("gone") is None

    run(tasks, test)


def test_a_failed_task_raises_its_fault_and_is_removed() -> None:
    tasks = Tasks(failed(BadPowerState("Running", "Halted")))

    async def test(xenops: Xenops) -> None:
        with pytest.raises(BadPowerState) as caught:
            await xenops.finished("t")
        assert caught.value.actual == "Running"

    run(tasks, test)
    assert tasks.destroyed == ["t"]


def test_a_task_that_takes_too_long_is_left_alone() -> None:
    tasks = Tasks(types.Pending(progress=0.5))

    async def test(xenops: Xenops) -> None:
        with pytest.raises(TimedOut):
            await xenops.finished("t", timeout_s=0.05)

    run(tasks, test)
    assert tasks.destroyed == []
    assert max(tasks.polls) <= 0.05


def event(kind: Kind, id: str, seq: int, change: Change = Change.CHANGED) -> Message:
    told = Event(epoch="e", seq=seq, host="h", instance="simulator", kind=kind, id=id, change=change, at=0)
    return Message(encode_event(told), routing_key=topic("h", "simulator", kind, id))


def test_events_of_one_object_coalesce_and_what_is_none_is_left_out() -> None:
    async def test(xenops: Xenops) -> None:
        async def publish(message: Message) -> None:
            await xenops.bus.publish(message.routing_key, message)

        async with xenops.events(kinds=[Kind.VM]) as events:
            await xenops.bus.publish("h.simulator.vm.a", Message(b"\xc1"))
            await publish(event(Kind.VM, "a", 1, Change.ADDED))
            await publish(event(Kind.TASK, "t", 2))
            await publish(event(Kind.VM, "b", 3))
            await publish(event(Kind.VM, "a", 4, Change.REMOVED))
            await xenops.bus.publish("other.simulator.vm.c", event(Kind.VM, "c", 1))
            for _ in range(8):
                await asyncio.sleep(0)  # each message is handed over in a turn of its own
            got = [await anext(events) for _ in range(2)]
            assert [(e.id, e.seq, e.change) for e in got] == [("b", 3, Change.CHANGED), ("a", 4, Change.REMOVED)]
            waiting = asyncio.ensure_future(anext(events))
            await publish(event(Kind.VM, "d", 5))
            assert (await waiting).id == "d"

    run(Tasks(types.Pending()), test)


def test_both_faces_are_found_by_what_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("XENOPS_WHERE", raising=False)
    monkeypatch.setenv("XENOPS_URL", "amqp://u:p@127.0.0.1:1/%2F")
    monkeypatch.setenv("XENOPS_QUEUE", QUEUE)

    async def test() -> None:
        assert connect().queue == QUEUE
        assert connect(queue="mine").queue == "mine"

    asyncio.run(test())
    with connect_blocking() as xenops:
        assert xenops.queue == QUEUE
        assert xenops.VM.start.__doc__.startswith("Create the domain")
