# SPDX-License-Identifier: Apache-2.0
"""No operation is left out, and each sample is what its request asks for."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import running
from tests.xenopsd.machines import full_machine
from tests.xenopsd.steps.samples import METHODS, Sample, asks, samples, without_sample
from xenops.rpc import request
from xenops.types.disk import Local
from xenops.wire import decode_result
from xenopsd.engine.plan import atoms
from xenopsd.operations import catalog

SAMPLES = samples("vm-1", Local(path="/image"))


def test_every_operation_has_a_sample() -> None:
    assert without_sample() == [], "add a sample to tests/xenopsd/steps/samples.py"


def test_names_tell_samples_apart() -> None:
    assert len({sample.name for sample in SAMPLES}) == len(SAMPLES)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_turns_are_steps_of_the_plan(sample: Sample) -> None:
    assert {name for name, _ in sample.turns} <= {name for name, _ in sample.places}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_no_step_lets_a_cancel_wait_for_longer_than_is_said(sample: Sample) -> None:
    """`tests/xenopsd/steps/test_ordeals.py` has a step that never ends cut after its patience, which it shortens."""
    assert {atom.patience_s for atom in atoms(sample.plan)} <= {0.0, 4.0}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_request_asks_for_the_operation(sample: Sample, tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(30), running(tmp_path) as (daemon, xenops):
            await xenops.VM.import_metadata(msgspec.to_builtins(full_machine().metadata()))
            name, arguments = asks(sample.operation)
            daemon.workers.resize(0)  # accepted, and not begun: a refusal for its state would come at once
            needs = type(sample.operation).needs
            type(sample.operation).needs = ()
            try:
                message = request(METHODS[name], arguments, {})
                decode_result((await xenops.bus.call(xenops.queue, message, timeout_s=10.0)).body, str)
            finally:
                type(sample.operation).needs = needs
            await daemon.database.persist()
            rows = [(entry.payload,) for entry in daemon.journal.entries()]
            assert [catalog.decode(payload) for (payload,) in rows] == [sample.operation]
            daemon.workers.resize(25)

    asyncio.run(run())
