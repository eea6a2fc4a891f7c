# SPDX-License-Identifier: Apache-2.0
"""At every step of both ends' plans one of them dies, the step fails, or somebody cancels; the machine ends with exactly one.

The steps are read off the plans: a step that is added is met by itself. `make test-crash` takes all of them rather than a sample.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.xenopsd.machines import mobile_machine
from tests.xenopsd.migration.pair import Host, two
from tests.xenopsd.migration.test_misfortunes import VM, asked, in_order, started
from tests.xenopsd.steps.samples import ALL
from xenops.errors import IoError
from xenops.events import Kind
from xenops.types.task import Completed
from xenops.types.vm import PowerState
from xenopsd.engine import perform
from xenopsd.engine.plan import Atom, atoms
from xenopsd.migration.arrival import Arrival
from xenopsd.migration.handshake import Destination
from xenopsd.operations import migrate
from xenopsd.store.machine import Machine
from xenopsd.store.migrations import Crossing, Phase

RUNNING = PowerState.RUNNING


def name_of(atom: Atom) -> str:
    return f"{atom.label} {atom.about}".rstrip()


def small_machine() -> Machine:
    """With a device of each kind, and no second one: what differs from step to step."""
    machine = mobile_machine(VM)
    for kind, dev in ((Kind.VBD, "xvda"), (Kind.VIF, "0")):
        machine.devices[kind] = {dev: machine.devices[kind][dev]}
    return machine


MACHINE = small_machine()
_COMING = Arrival(Crossing(id="m", vm=VM, peer="here", phase=Phase.RECEIVING), MACHINE, Destination.RECEIVING)
PLANS = {
    "here": [migrate.Migrate(vm=VM, destination="xenops.there.simulator").plan(MACHINE)],
    "there": [migrate.arrive(_COMING), migrate.settle(_COMING)],
}
STEPS = [
    (end, name) for end, plans in PLANS.items() for name in dict.fromkeys(name_of(a) for p in plans for a in atoms(p))
]
if not ALL:  # a sample: those that decide, and some of the others
    STEPS = [each for n, each in enumerate(STEPS) if n % 6 == 0 or each[1].startswith("migration.")]
IDS = [f"{end}-{name}" for end, name in STEPS]


class Watch:
    """What happens as a step begins or has ended, once."""

    def __init__(self, hosts: tuple[Host, Host], end: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self._queue, self._name, self.met = f"xenops.{end}.simulator", name, asyncio.Event()
        self._host = hosts[0] if end == "here" else hosts[1]
        self._step = perform._step
        self.before: Any = None
        self.after: Any = None
        monkeypatch.setattr(perform, "_step", self._watched)

    async def _watched(self, atom: Atom, cx: Any) -> None:
        here = not self.met.is_set() and cx.migration.queue == self._queue and name_of(atom) == self._name
        if here and self.before is not None:
            self.met.set()
            await self.before(cx)
        await self._step(atom, cx)
        if here and self.after is not None:
            self.met.set()
            await self.after(cx)

    async def die(self, cx: Any) -> None:
        """Without warning."""
        await self._host.crash()
        await asyncio.Event().wait()

    async def fail(self, cx: Any) -> None:
        """The step cannot be taken."""
        raise IoError("injected", "injected")

    async def cancel(self, cx: Any) -> None:
        """Somebody cancels the task, if it still lets itself be cancelled."""
        cx.task.cancel()


@asynccontextmanager
async def watched(path: Path, end: str, name: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watch]:
    async with asyncio.timeout(50), two(path) as hosts:
        await started(hosts[0], MACHINE)
        watch = Watch(hosts, end, name, monkeypatch)
        yield watch
        asking = asyncio.create_task(asked(*hosts))
        await watch.met.wait()
        task = await asking
        owner = await in_order(*hosts, RUNNING)
        state = (await hosts[0].xenops.Task.wait(task, timeout=10.0)).state
        assert isinstance(state, Completed) == (owner is hosts[1]), f"the task says {state}"


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize(("end", "name"), STEPS, ids=IDS)
def test_one_end_dies(end: str, name: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with watched(tmp_path, end, name, monkeypatch) as watch:
            setattr(watch, when, watch.die)

    asyncio.run(run())


@pytest.mark.parametrize(("end", "name"), STEPS, ids=IDS)
def test_a_step_fails(end: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with watched(tmp_path, end, name, monkeypatch) as watch:
            watch.before = watch.fail

    asyncio.run(run())


@pytest.mark.parametrize(("end", "name"), STEPS, ids=IDS)
def test_a_cancel(end: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with watched(tmp_path, end, name, monkeypatch) as watch:
            watch.before = watch.cancel

    asyncio.run(run())
