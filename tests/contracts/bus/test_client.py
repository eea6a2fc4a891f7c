# SPDX-License-Identifier: Apache-2.0
"""Both faces of the client against every broker."""

import asyncio

from xenops.blocking import connect_blocking
from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Message
from xenops.client import connect
from xenops.events import Change, Event, Kind, encode, topic
from xenops.interfaces.xenops import Task
from xenops.rpc import Dispatcher
from xenops.types import task as types

from .world import AmqpWorld, name, scenario


class Tasks:
    """Every task has just been done."""

    def __init__(self, bus: object, queue: str) -> None:
        self._bus, self._queue = bus, queue

    async def wait(self, id: str, timeout: float = 30.0) -> types.Task:
        return types.Task(id=id, operation="VM.start", ctime=0, state=types.Completed(duration_s=1.0, result=id))

    async def stat(self, id: str) -> types.Task:
        return await self.wait(id)

    async def destroy(self, id: str) -> None:
        """Tell everybody, as xenopsd does."""
        _, host, instance = self._queue.split(".")
        gone = Event(epoch="e", seq=1, host=host, instance=instance, kind=Kind.TASK, id=id, change=Change.REMOVED, at=0)
        assert isinstance(self._bus, AmqpBus)
        await self._bus.publish(topic(host, instance, Kind.TASK, id), Message(encode(gone)))

    async def cancel(self, id: str) -> None:
        raise NotImplementedError

    async def list(self) -> list[types.Task]:
        return [await self.wait("a"), await self.wait("b")]

    async def destroy_on_finish(self, id: str) -> None:
        raise NotImplementedError


async def serve(world: AmqpWorld) -> str:
    queue, bus = name("client"), await world.bus()
    await bus.serve(queue, Dispatcher([(Task, Tasks(bus, queue))]).answer)
    return queue


@scenario
async def test_the_asynchronous_face(amqp_world: AmqpWorld) -> None:
    queue = await serve(amqp_world)
    async with connect(amqp_world.url, queue, timeout_s=5) as xenops, xenops.events([Kind.TASK]) as events:
        assert await xenops.finished("t-1") == "t-1"
        gone = await anext(events)
        assert (gone.id, gone.change) == ("t-1", Change.REMOVED)


@scenario
async def test_the_blocking_face(amqp_world: AmqpWorld) -> None:
    queue = await serve(amqp_world)

    def script() -> None:
        with connect_blocking(amqp_world.url, queue, timeout_s=5) as xenops:
            events = xenops.events([Kind.TASK], timeout_s=5)
            assert [task.id for task in xenops.Task.list()] == ["a", "b"]
            assert xenops.finished("t-1") == "t-1"
            assert next(events).id == "t-1"

    await asyncio.to_thread(script)
