# SPDX-License-Identifier: Apache-2.0
"""xenopsd is killed at each step of each operation, on the simulator; tests/xen/acceptance/faults/test_kill.py does it on Xen."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.xenopsd.kill.cases import Case, of_sample
from tests.xenopsd.kill.lab import Lab, MortalStack, running
from tests.xenopsd.kill.mortal import Death
from tests.xenopsd.kill.story import tell
from tests.xenopsd.steps.samples import ALL, samples
from xenops.types.disk import Local
from xenopsd.store.machine import Machine

VM = "mortal-1"


def the(name: str, image: Local) -> tuple[Case, Machine]:
    sample = next(it for it in samples(VM, image) if it.name == name)
    return of_sample(sample), sample.machine


POINTS = [
    (sample.name, death)
    for turn, sample in enumerate(samples(VM, Local(path="/")))
    for place, death in enumerate(of_sample(sample).deaths(sample.machine))
    if ALL or (turn + place) % 12 == 0
]
At = tuple[asyncio.Runner, Lab]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[At]:
    """One stack for all deaths of this process."""
    folder = tmp_path_factory.mktemp("kill")
    log = folder / "stack.log"

    @asynccontextmanager
    async def lab() -> AsyncIterator[Lab]:
        stack = MortalStack(folder / "var", log_to=log)
        async with running(stack) as xenops:
            yield Lab(stack, xenops, folder)

    with asyncio.Runner() as runner:
        context = lab()
        made = runner.run(context.__aenter__())
        yield runner, made
        runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize(("name", "death"), POINTS, ids=[f"{name}-{death.words[5:]}" for name, death in POINTS])
def test_killed(name: str, death: Death, at: At) -> None:
    runner, lab = at
    image = Local(path=str(lab.folder / "image"))

    async def bounded() -> bool:
        async with asyncio.timeout(50):
            return await tell(lab, *the(name, image), image, death)

    assert runner.run(bounded()), "xenopsd did not die there"
