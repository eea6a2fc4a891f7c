# SPDX-License-Identifier: Apache-2.0
"""Every step of every operation fails, runs out of time, is cancelled and cannot be undone; the world, the records and the events agree.

The machine ends in a state that the steps so far may leave behind; its devices are there with its domain and counted on
exactly then; what events said last is so; no memory is left, and the machine can be used again at once.
`tests/xenopsd/kill` has what ends the daemon or its bus.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.daemon import running
from tests.xenopsd.steps.ordeals import ORDEALS, STRAND, TAKEN, Ordeal
from tests.xenopsd.steps.samples import HALTED, PAUSED, RUNNING, SUSPENDED, Sample, is_walked, samples
from xenops.bus.port import Message
from xenops.client import Xenops
from xenops.events import Event
from xenops.rpc import Calling, calling
from xenops.types.disk import Local
from xenops.types.task import Completed, Failed, Task
from xenops.types.vm import PowerState
from xenopsd.engine import perform
from xenopsd.main import Daemon
from xenopsd.operations.operation import Operation


def points(sample: Sample) -> list[tuple[int, str]]:
    """What befalls which step of it."""
    return [
        (place, ordeal)
        for place in range(len(sample.places))
        for turn, ordeal in enumerate((*ORDEALS, STRAND))
        if is_walked(sample, place, turn) and (ordeal != STRAND or sample.is_undone(place))
    ]


POINTS = [(sample.name, *point) for sample in samples("vm", Local(path="/")) for point in points(sample)]
_numbers = itertools.count()


class Lab:
    """A daemon, a client, and what its events said last."""

    def __init__(self, daemon: Daemon, xenops: Xenops, folder: Path) -> None:
        self.daemon, self.xenops, self.folder = daemon, xenops, folder
        self.told: dict[tuple[str, str], Event] = {}
        self.heard = asyncio.Event()
        self.image = Local(path=str(folder / "image"))

    def hear(self, message: Message) -> None:
        """An event."""
        event = msgspec.msgpack.decode(message.body, type=Event)
        self.told[event.kind.value, event.id] = event
        self.heard.set()

    async def do(self, operation: Operation, dbg: str = "") -> Task:
        """Have it carried out, to its end."""
        calling.set(Calling(debug_info=dbg))
        task = self.daemon.tasks.find(await self.daemon.control.begin(operation))
        await task.wait(20.0)
        assert task.ended, f"{task.operation} does not end"
        return task.record()

    async def done(self, operation: Operation) -> None:
        """Have it carried out, which must succeed."""
        task = await self.do(operation)
        assert isinstance(task.state, Completed), task

    async def state(self, vm: str) -> PowerState:
        """What the machine is."""
        return (await self.xenops.VM.stat(vm)).state.power_state


@asynccontextmanager
async def a_lab(folder: Path) -> AsyncIterator[Lab]:
    async with running(folder) as (daemon, xenops):
        lab = Lab(daemon, xenops, folder)
        listening = await xenops.bus.subscribe(["#"], lab.hear)
        yield lab
        await listening.cancel()


class Labs:
    """One daemon for all ordeals of this process, until one of them goes wrong."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._runner, self._made = folder, asyncio.Runner(), 0
        self._context: AbstractAsyncContextManager[Lab] | None = None
        self._lab: Lab | None = None

    def run(self, work: Callable[[Lab], Coroutine[Any, Any, None]]) -> None:
        """Do it in the lab that there is, or in a new one."""
        if self._lab is None:
            self._made += 1
            self._context = a_lab(self._folder / str(self._made))
            self._lab = self._runner.run(self._context.__aenter__())
        try:
            self._runner.run(work(self._lab))
        except BaseException:
            self.leave()
            raise

    def leave(self) -> None:
        """Stop the daemon."""
        if self._context is not None:
            self._runner.run(self._context.__aexit__(None, None, None))
        self._lab = self._context = None

    def close(self) -> None:
        """No more ordeals."""
        self.leave()
        self._runner.close()


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    found = Labs(tmp_path_factory.mktemp("ordeals"))
    yield found
    found.close()


@pytest.mark.parametrize(("name", "place", "ordeal"), POINTS)
def test_ordeal(name: str, place: int, ordeal: str, labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = f"{name}-{next(_numbers)}"

    def sample(lab: Lab) -> Sample:
        return next(it for it in samples(vm, lab.image) if it.name == name)

    labs.run(lambda lab: befall(lab, sample(lab), place, ordeal, monkeypatch))


async def befall(lab: Lab, sample: Sample, place: int, ordeal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """That ordeal, at that place of the sample's operation."""
    here = sample.last if ordeal == STRAND else place
    words = f"ordeal of {sample.operation.vm}"
    it = Ordeal("fail" if ordeal == STRAND else ordeal, *sample.places[here], words, asyncio.Event())
    it.strands = sample.places[place][0] if ordeal == STRAND else ""
    monkeypatch.setattr(perform, "_step", it.step_in)
    monkeypatch.setattr(perform, "_undo", it.undo_in)
    async with asyncio.timeout(40):
        await undergo(lab, sample, here, it)
    assert it.stranded == (ordeal == STRAND)


async def undergo(lab: Lab, sample: Sample, place: int, ordeal: Ordeal) -> None:
    vm, xenops = sample.operation.vm, lab.xenops
    empty = await xenops.HOST.stat()
    await prepare(lab, sample)
    task = await lab.do(sample.operation, ordeal.dbg)
    assert ordeal.met.is_set(), "it never came to that step"
    await xenops.finished(await xenops.VM.delay(vm, 0.0))  # behind the check
    says(sample, place, ordeal, task)
    state = await lab.state(vm)
    taken = place + (ordeal.name in TAKEN)
    assert state in allowed(sample, place, ordeal, task), f"{state} after {taken} steps"
    live = state in (RUNNING, PAUSED)
    await devices_agree(xenops, sample, live=live, whole=not (sample.broken and live))
    await events_agree(lab, vm, state, task)
    await usable(lab, vm, state)
    after = await xenops.HOST.stat()
    assert after.memory_free == empty.memory_free, "memory is left behind"
    await xenops.VM.remove(vm)
    await xenops.Task.destroy(task.id)


async def prepare(lab: Lab, sample: Sample) -> None:
    vm, xenops = sample.operation.vm, lab.xenops
    await xenops.VM.import_metadata(msgspec.to_builtins(sample.machine.metadata()))
    if sample.before is not HALTED and not sample.broken:
        await xenops.finished(await xenops.VM.start(vm, paused=sample.before is PAUSED))
    if sample.before is SUSPENDED:
        await xenops.finished(await xenops.VM.suspend(vm, lab.image))
    for operation in sample.prepare:
        await lab.done(operation)


def says(sample: Sample, place: int, ordeal: Ordeal, task: Task) -> None:
    """The task ends as it must, and said truly whether it could be cancelled."""
    cancellable = place < sample.cancellable
    assert ordeal.could_cancel == cancellable
    last = place == len(sample.places) - 1
    if sample.is_decided(place + (ordeal.name in TAKEN)) or (
        sample.is_best_effort(sample.places[place]) and ordeal.name not in ("cancel", "block")
    ):
        assert fault_of(task) == "", task
    elif ordeal.name == "cancel" and (last or not cancellable):
        # a step that waits for nobody may end before its cancel cuts it
        assert fault_of(task) in (sample.refused, "Cancelled"), task
    elif (ordeal.name == "block" and not cancellable) or (ordeal.name in TAKEN and sample.refused):
        assert fault_of(task) == sample.refused, task
    else:
        expected = {"fail": "IoError", "spoil": "IoError", "stall": "StepTimedOut", "linger": "StepTimedOut"}
        assert fault_of(task) == expected.get(ordeal.name, "Cancelled"), task


def fault_of(task: Task) -> str:
    """With what it failed; empty when it did not."""
    return task.state.fault.name if isinstance(task.state, Failed) else ""


def allowed(sample: Sample, place: int, ordeal: Ordeal, task: Task) -> set[PowerState]:
    """What the machine may be."""
    if isinstance(task.state, Completed):
        return {sample.after()}
    if fault_of(task) == "Cancelled":
        return sample.left_by(place + 1)
    return sample.left_by(place + (ordeal.name in TAKEN))


async def devices_agree(xenops: Xenops, sample: Sample, *, live: bool, whole: bool) -> None:
    """Drives and interfaces are there with the domain, and counted on exactly when they are there."""
    vm, touched = sample.operation.vm, getattr(sample.operation, "dev", None)
    vbds, vifs = await xenops.VBD.list(vm), await xenops.VIF.list(vm)
    plugged = {it.vbd.id: it.state.plugged for it in vbds} | {it.vif.id: it.state.plugged for it in vifs}
    if whole:
        assert all(there == live for id, there in plugged.items() if id.dev != touched), plugged
    assert {it.vbd.id: it.state.active for it in vbds} | {it.vif.id: it.state.active for it in vifs} == plugged


async def events_agree(lab: Lab, vm: str, state: PowerState, task: Task) -> None:
    """What was said last, of the machine and of the task, is what is so."""

    def agreed() -> bool:
        of_vm, of_task = lab.told.get(("vm", vm)), lab.told.get(("task", task.id))
        if of_vm is None or of_task is None:
            return False
        return of_vm.power_state == state.value and of_task.state == type(task.state).__name__

    while not agreed():
        lab.heard.clear()
        await lab.heard.wait()


async def usable(lab: Lab, vm: str, state: PowerState) -> None:
    """It can be stopped, started whole and stopped again."""
    xenops = lab.xenops
    if state is SUSPENDED:
        await xenops.finished(await xenops.VM.resume(vm, lab.image))
    await xenops.finished(await xenops.VM.shutdown(vm))
    await xenops.finished(await xenops.VM.start(vm))
    drives: list[Any] = await xenops.VBD.list(vm)
    assert all(it.state.plugged for it in drives)
    await xenops.finished(await xenops.VM.shutdown(vm))
    assert await lab.state(vm) is HALTED
