# SPDX-License-Identifier: Apache-2.0
"""An operation that is added to the catalogue, or a step to a plan, enters all suites that walk steps by itself."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from tests.xenopsd.kill.cases import of_sample
from tests.xenopsd.kill.test_cut import points as cuts
from tests.xenopsd.machines import full_machine
from tests.xenopsd.steps import samples as catalogue
from tests.xenopsd.steps.ordeals import ORDEALS
from tests.xenopsd.steps.samples import PAUSED, RUNNING, Sample, without_sample
from tests.xenopsd.steps.test_ordeals import Labs, befall, points
from xenops.types.vm import PowerState
from xenopsd.atoms import vm as atoms
from xenopsd.engine.plan import Atom, Plan, serial
from xenopsd.operations import catalog
from xenopsd.operations.operation import Operation
from xenopsd.operations.start import Start
from xenopsd.store.machine import Machine

VM = "nap-1"


class Nap(Operation, frozen=True, kw_only=True, tag="VM.delay"):
    """Sleep for a while; it answers a request that another operation answers otherwise."""

    needs: ClassVar[tuple[PowerState, ...]] = (RUNNING,)
    seconds: float

    def plan(self, machine: Machine) -> Plan:
        return serial(atoms.Pause(machine.vm), atoms.Delay(self.seconds), atoms.Unpause(machine.vm))


@dataclass(frozen=True)
class Yawn(Atom):
    """A step that nobody has heard of."""

    async def do(self, cx: Any) -> None:
        """Nothing."""


NAP = Sample("nap", Nap(vm=VM, seconds=0.0), RUNNING, (("vm.Pause", PAUSED), ("vm.Unpause", RUNNING)))


@pytest.fixture(scope="module")
def labs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Labs]:
    found = Labs(tmp_path_factory.mktemp("nap"))
    yield found
    found.close()


def test_it_is_missed_until_there_is_a_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "AnyOperation", catalog.AnyOperation | Nap)
    assert without_sample() == ["Nap"]
    known = catalogue.samples
    monkeypatch.setattr(catalogue, "samples", lambda vm, image: [*known(vm, image), NAP])
    assert without_sample() == []


def test_with_a_sample_each_of_its_steps_is_walked() -> None:
    names = [name for name, _ in NAP.places]
    assert len(names) == 3
    assert {point for point in points(NAP) if point[1] in ORDEALS} == {(n, it) for n in range(3) for it in ORDEALS}
    deaths = of_sample(NAP).deaths(full_machine(VM))
    assert [(it.when, it.step) for it in deaths] == [("begin", names[0]), *(("end", name) for name in names)]
    assert cuts(0, NAP, everything=True) == [0, 1, 2]


def test_a_new_step_is_walked_as_well(monkeypatch: pytest.MonkeyPatch) -> None:
    sample = Sample("start", Start(vm=VM))
    before, plan = len(sample.places), Start.plan
    monkeypatch.setattr(Start, "plan", lambda self, machine: serial(plan(self, machine), Yawn()))
    assert len(sample.places) == before + 1
    assert sample.places[-1] == ("test_new_operation.Yawn", 1)
    assert of_sample(sample).deaths(full_machine(VM))[-1].step == "test_new_operation.Yawn"
    assert cuts(0, sample, everything=True)[-1] == before


@pytest.mark.parametrize(("place", "ordeal"), points(NAP))
def test_what_befalls_it(place: int, ordeal: str, labs: Labs, monkeypatch: pytest.MonkeyPatch) -> None:
    labs.run(lambda lab: befall(lab, NAP, place, ordeal, monkeypatch))
