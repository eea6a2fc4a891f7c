# SPDX-License-Identifier: Apache-2.0
"""Two real xenopsds on one switch: a machine goes from one to the other, and either is killed on the way."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local.stack import Part, Stack
from tests.xenopsd.machines import plain_vm
from xenops.client import Xenops, connect
from xenops.errors import DoesNotExist, Migrated
from xenops.types.record import UNSET
from xenops.types.vm import PowerState

VM = "vm-1"
RUNNING = PowerState.RUNNING
OTHER = "other"


@dataclass
class Pair(Stack):
    """A switch and two xenopsds."""

    def _parts(self) -> list[Part]:
        switch, _, xenopsd, _ = super()._parts()
        quick = ("--migration-stall-timeout=3", "--migration-patience=5")
        flags = tuple(flag for flag in xenopsd.flags if not flag.startswith(("--metrics-port", "--state-dir")))
        second = (*flags, *quick, f"--state-dir={self.var / OTHER}", f"--instance={OTHER}", "--metrics-port=0")
        return [switch, Part(xenopsd.program, (*xenopsd.flags, *quick)), Part(xenopsd.program, second)]

    async def kill_and_revive(self, which: int) -> None:
        """SIGKILL one of the xenopsds, and start it again."""
        part, process = self.running.pop(which)
        process.kill()
        await process.wait()
        await self._start(part)
        self.running.insert(which, self.running.pop())


Ends = tuple[Pair, Xenops, Xenops]


@asynccontextmanager
async def pair(path: Path) -> AsyncIterator[Ends]:
    stack = Pair(path / "var", log_to=path / "log")
    found = await stack.start()
    try:
        queue = f"{found.queue.rpartition('.')[0]}.{OTHER}"
        async with connect(found.amqp, found.queue) as here, connect(found.amqp, queue) as there:
            await here.VM.add(plain_vm(VM))
            await here.finished(await here.VM.start(VM, paused=False))
            await here.DEBUG.trigger("memory", [VM, "16384", "4000"])
            yield stack, here, there
    finally:
        await stack.stop()


def told(path: Path, work: Callable[[Pair, Xenops, Xenops], Awaitable[None]]) -> None:
    async def run() -> None:
        async with asyncio.timeout(110), pair(path) as ends:
            await work(*ends)

    asyncio.run(run())


async def state(xenops: Xenops) -> PowerState | None:
    try:
        stat = await xenops.VM.stat(VM)
    except (DoesNotExist, Migrated):
        return None
    return stat.state.power_state if stat.given_to is UNSET else None


async def one_has_it(here: Xenops, there: Xenops) -> tuple[Xenops, Xenops]:
    while True:
        states = await state(here), await state(there)
        if states == (RUNNING, None):
            return here, there
        if states == (None, RUNNING):
            return there, here
        assert states != (RUNNING, RUNNING), "two guests run"
        await asyncio.sleep(0.1)


async def usable(owner: Xenops, other: Xenops) -> None:
    """It can be stopped, started and moved at once, and nothing of it is left at the other one."""
    await owner.finished(await owner.VM.shutdown(VM))
    await owner.finished(await owner.VM.start(VM, paused=False))
    await owner.finished(await owner.VM.migrate(VM, other.queue))
    assert await state(other) is RUNNING
    host = await owner.HOST.stat()
    assert host.memory_free == host.memory_total


def test_there_and_back(tmp_path: Path) -> None:
    async def work(stack: Pair, here: Xenops, there: Xenops) -> None:
        result = await here.finished(await here.VM.migrate(VM, there.queue, compress=True))
        assert result["running"] is True
        assert result["rounds"] >= 2
        await usable(*await one_has_it(here, there))

    told(tmp_path, work)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("whose", [1, 2], ids=["source", "destination"])
@pytest.mark.parametrize("call", ["vm.migrate_receive", "vm.set_action", "vm.unpause"])
def test_killed_on_the_way(call: str, whose: int, tmp_path: Path) -> None:
    """It is held at a call of the destination's, and one of them is killed there."""

    async def work(stack: Pair, here: Xenops, there: Xenops) -> None:
        await there.DEBUG.trigger("pause-call", [call])
        task = await here.VM.migrate(VM, there.queue)
        await reached(here, there, task, call)
        await stack.kill_and_revive(whose)
        if whose == 1:
            await there.DEBUG.trigger("release-call", [call])
        await usable(*await one_has_it(here, there))

    told(tmp_path, work)


async def reached(here: Xenops, there: Xenops, task: str, call: str) -> None:
    """Wait until the migration is at that call."""
    steps = {"vm.migrate_receive": "Send", "vm.set_action": "AwaitPrepared", "vm.unpause": "Deliver"}
    step = f"migration.{steps[call]}"
    while not any(it.name.startswith(step) for it in (await here.Task.stat(task)).subtasks):  # noqa: ASYNC110 (another process)
        await asyncio.sleep(0.02)
    if call == "vm.unpause":
        while not await there.VM.exists(VM):  # noqa: ASYNC110 (another process)
            await asyncio.sleep(0.02)
