# SPDX-License-Identifier: Apache-2.0
"""The switch is killed at each step of each operation: the operation goes on, its end and its events are not lost."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import msgspec
import pytest

from tests.xenopsd.kill.cases import Case, of_sample
from tests.xenopsd.kill.lab import Lab, MortalStack, running
from tests.xenopsd.kill.mortal import CUTTER, Death
from tests.xenopsd.kill.story import devices_are_whole, prepare, stat, usable
from tests.xenopsd.steps.samples import ALL, HALTED, Sample, samples
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.task import Failed

VM = "cut-1"


def points(turn: int, sample: Sample, *, everything: bool = ALL) -> list[int]:
    """The steps of it before which the switch is killed."""
    return [place for place in range(len(sample.places)) if everything or (turn + place) % 24 == 0]


POINTS = [
    (sample.name, place) for turn, sample in enumerate(samples(VM, Local(path="/"))) for place in points(turn, sample)
]


class CutLab(Lab):
    """A lab whose switch can be killed from within xenopsd."""

    cuts = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Xenopsd stands at the step: kill its switch, let it go on, and start the switch again."""
        part = await self.stack.kill("message-switch")
        self.cuts += 1
        writer.close()
        await self.stack.start_again(part)


At = tuple[asyncio.Runner, CutLab]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[At]:
    """One stack for all cuts of this process."""
    folder = tmp_path_factory.mktemp("cut")

    @asynccontextmanager
    async def lab() -> AsyncIterator[CutLab]:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(CUTTER, str(folder / "cutter"))
            stack = MortalStack(folder / "var", log_to=folder / "stack.log")
            async with running(stack) as xenops:
                made = CutLab(stack, xenops, folder)
                async with await asyncio.start_unix_server(made.serve, folder / "cutter"):
                    yield made

    with asyncio.Runner() as runner:
        context = lab()
        made = runner.run(context.__aenter__())
        yield runner, made
        runner.run(context.__aexit__(None, None, None))


@pytest.mark.parametrize(("name", "place"), POINTS)
def test_cut(name: str, place: int, at: At) -> None:
    runner, lab = at
    image = Local(path=str(lab.folder / "image"))
    sample = next(it for it in samples(VM, image) if it.name == name)
    step, nth = sample.places[place]

    async def bounded() -> None:
        async with asyncio.timeout(50):
            await tell(lab, sample, of_sample(sample), image, Death("cut", nth, step))

    runner.run(bounded())


async def tell(lab: CutLab, sample: Sample, case: Case, image: Local, death: Death) -> None:
    xenops, cuts = lab.xenops, lab.cuts
    await xenops.VM.import_metadata(msgspec.to_builtins(sample.machine.metadata()))
    await prepare(lab, case, sample.machine, image)
    token = await xenops.UPDATES.last_id()
    id = await lab.ask_until_answered(case.method, case.args, death.words)
    task = await lab.ended(id)
    assert (task.state.fault.name if isinstance(task.state, Failed) else "") == sample.refused, task
    assert lab.cuts == cuts + 1, "it never came to that step"
    assert [it.id for it in await xenops.Task.list()].count(id) == 1
    state = await stat(lab, VM)
    assert state.power_state is sample.after()
    if not sample.broken:
        await devices_are_whole(lab, sample.machine, live=bool(state.domids), but=case.dev)
    news = await xenops.UPDATES.get(token, 5.0)
    assert not news.resync, "the daemon lived on, and so does its stream"
    assert {(Kind.VM, VM), (Kind.TASK, id)} <= {(it.kind, it.id) for it in news.updates}
    await xenops.Task.destroy(id)
    if state.power_state is not HALTED and sample.broken:
        await xenops.finished(await xenops.VM.shutdown(VM))
    await usable(lab, case, sample.machine, image)
    await xenops.VM.remove(VM)
