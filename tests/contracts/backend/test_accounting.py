# SPDX-License-Identifier: Apache-2.0
"""Whatever is done in whatever order, nobody's memory is lost, and nothing is left of a machine that is gone."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from xenops.errors import AlreadyExists, DoesNotExist, DomainNotBuilt, NotEnoughMemory
from xenops.types.metadata import Metadata
from xenops.types.vm import MIB, PowerState

MACHINES = st.integers(0, 3)


class Accounting(RuleBasedStateMachine):
    """A few machines that come and go, against a model that knows only who exists and who is built."""

    lab_type: Any

    def __init__(self) -> None:
        super().__init__()
        self.folder = TemporaryDirectory()
        self.lab = self.lab_type(Path(self.folder.name))
        self.runner = asyncio.Runner()
        self.machines: list[Metadata] = [self.lab.a_vm(kind, memory_mib=size) for kind, size in self.lab.crowd]
        self.exist: set[int] = set()
        self.built: set[int] = set()
        self._open()
        self.total = self.run(self.backend.host.stat()).memory_free

    def run(self, call: Any) -> Any:
        return self.runner.run(call)

    def _open(self) -> None:
        self.context = self.lab.open()
        self.backend = self.run(self.context.__aenter__())

    def _close(self) -> None:
        self.run(self.context.__aexit__(None, None, None))

    @rule(n=MACHINES)
    def create(self, n: int) -> None:
        if n in self.exist:
            with pytest.raises(AlreadyExists):
                self.run(self.backend.vm.create(self.machines[n]))
        else:
            self.run(self.backend.vm.create(self.machines[n]))
            self.exist.add(n)

    @rule(n=MACHINES)
    def build(self, n: int) -> None:
        try:
            self.run(self.backend.vm.build(self.machines[n], force=False))
        except DoesNotExist:
            assert n not in self.exist
        except NotEnoughMemory:
            assert n in self.exist
        else:
            assert n in self.exist
            self.built.add(n)

    @precondition(lambda self: self.built)
    @rule(n=MACHINES, mib=st.integers(1, 4000))
    def balloon(self, n: int, mib: int) -> None:
        try:
            self.run(self.backend.vm.set_memory_dynamic_range(self.machines[n].vm, MIB, mib * MIB))
        except (DoesNotExist, DomainNotBuilt):
            assert n not in self.built

    @rule(n=MACHINES)
    def destroy(self, n: int) -> None:
        self.run(self.backend.vm.destroy(self.machines[n].vm))
        self.exist.discard(n)
        self.built.discard(n)

    @rule()
    def restart(self) -> None:
        self._close()
        self._open()

    @invariant()
    def no_memory_is_lost(self) -> None:
        free = self.run(self.backend.host.stat()).memory_free
        slack = self.lab.slack * len(self.machines)
        assert -slack <= self.total - free <= self.total
        assert (self.total - free <= slack) == (not self.built)

    @invariant()
    def those_that_exist_have_domains(self) -> None:
        states = self.run(self.backend.vm.states([machine.vm for machine in self.machines]))
        assert {n for n, state in enumerate(states) if state.domids} == self.exist
        assert all(state.power_state in (PowerState.HALTED, PowerState.PAUSED) for state in states)

    def teardown(self) -> None:
        for n in range(len(self.machines)):
            self.destroy(n)
        self.no_memory_is_lost()
        self._close()
        self.runner.close()
        self.folder.cleanup()


def test_accounting(lab: Any) -> None:
    class OfThisLab(Accounting):
        lab_type = type(lab)

    case = OfThisLab.TestCase
    case.settings = lab.accounting
    case("runTest").debug()
