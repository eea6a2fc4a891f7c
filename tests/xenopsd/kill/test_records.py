# SPDX-License-Identifier: Apache-2.0
"""xenopsd, or its switch, is killed at every point of every request that changes records: done once, as a whole, or not at all.

The request, sent again with its message id, has its result; the records, the host and a second answer agree with that.
"""

import asyncio
from collections.abc import Iterator

import msgspec
import pytest

from tests.xenopsd.kill.lab import METHODS, MortalStack, running
from tests.xenopsd.kill.mortal import CUTTER, DEATHS, Death
from tests.xenopsd.kill.test_cut import CutLab
from tests.xenopsd.machines import full_machine
from tests.xenopsd.steps.records import Change, changes
from tests.xenopsd.steps.samples import ALL
from xenops.bus.port import Message
from xenops.rpc import request
from xenops.types.metadata import Metadata
from xenops.types.vm import PowerState

VM = "record-1"
CASES = [
    (change, when)
    for turn, change in enumerate(changes(VM))
    for n, when in enumerate(("record", "record-cut"))
    if ALL or (turn + 9 * n) % 16 == 3
]
At = tuple[asyncio.Runner, CutLab]


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[At]:
    folder = tmp_path_factory.mktemp("records")
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setenv(CUTTER, str(folder / "cutter"))
        patch.setenv(DEATHS, str(folder))
        stack = MortalStack(folder / "var", log_to=folder / "stack.log")
        context = running(stack)
        lab = CutLab(stack, runner.run(context.__aenter__()), folder)
        cutter = runner.run(asyncio.start_unix_server(lab.serve, folder / "cutter"))
        yield runner, lab
        cutter.close()
        runner.run(context.__aexit__(None, None, None))


@pytest.mark.timeout(55)
@pytest.mark.parametrize(("change", "when"), CASES, ids=[f"{change.name}-{when}" for change, when in CASES])
def test_at_every_point(change: Change, when: str, at: At) -> None:
    runner, lab = at

    async def walk() -> None:
        async with asyncio.timeout(50):
            nth = 1
            while await suffer(lab, change, Death(when, nth)):
                nth += 1
            assert nth > 2, "before the write and after it"

    runner.run(walk())


async def suffer(lab: CutLab, change: Change, death: Death) -> bool:
    """Whether somebody died there."""
    xenops, empty, cuts, xenopsd = lab.xenops, await lab.look(), lab.cuts, lab.stack.xenopsd
    await xenops.VM.import_metadata(msgspec.to_builtins(full_machine(VM).metadata()))
    fatal, again = asked(change, death, death.words), asked(change, death, "")
    asking = asyncio.create_task(xenops.bus.call(xenops.queue, fatal, timeout_s=60.0))
    dying = asyncio.create_task(xenopsd.wait())
    await asyncio.wait((asking, dying), return_when=asyncio.FIRST_COMPLETED)
    died = dying.done()
    for task in (dying, asking) if died else (dying,):
        task.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    if died:
        await asyncio.gather(asking, return_exceptions=True)
        await lab.revive()
    else:
        await asking
    first = await lab.answered(again, METHODS[change.method])
    after = await world(lab)
    assert await lab.answered(again, METHODS[change.method]) == first
    assert await world(lab) == after
    for id in after:
        if (await xenops.VM.stat(id)).state.power_state is not PowerState.SUSPENDED:
            await xenops.finished(await xenops.VM.start(id))
        await xenops.finished(await xenops.VM.shutdown(id))
        await xenops.VM.remove(id)
    assert not await lab.changes(empty)
    return died or lab.cuts > cuts


def asked(change: Change, death: Death, words: str) -> Message:
    message = request(METHODS[change.method], change.args, {}, debug_info=words)
    message.message_id = f"{change.name} {death.words}"
    return message


async def world(lab: CutLab) -> dict[str, Metadata]:
    ids = [stat.vm.id for stat in await lab.xenops.VM.list()]
    return {id: await lab.xenops.VM.export_metadata(id) for id in ids}
