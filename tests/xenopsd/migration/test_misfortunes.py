# SPDX-License-Identifier: Apache-2.0
"""Every message of a migration, and its stream, meets every harm; exactly one host ends with the machine, running.

Both hosts agree whose it is, nothing of it is left at the other one, and it can be stopped, started and migrated at once.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.machines import mobile_machine
from tests.xenopsd.migration.meddling import Harm, Misfortunes, Stream
from tests.xenopsd.migration.pair import Host, two
from xenops.errors import Migrated
from xenops.types.task import Pending
from xenops.types.vm import PowerState
from xenopsd.store.machine import Machine
from xenopsd.store.migrations import Phase

VM = "vm-1"
RUNNING = PowerState.RUNNING
Play = Callable[[Host, Host, Misfortunes], Awaitable[None]]


async def started(host: Host, machine: Machine | None = None) -> None:
    metadata = (machine or mobile_machine(VM)).metadata()
    await host.xenops.VM.import_metadata(msgspec.to_builtins(metadata))
    await host.xenops.finished(await host.xenops.VM.start(VM, paused=False))


async def asked(here: Host, there: Host) -> str:
    """Ask for the migration and wait for its end, should the one who does it live so long; its task."""
    task = await here.xenops.VM.migrate(VM, there.queue)
    life = here.daemon
    while here.daemon is life and isinstance((await here.xenops.Task.wait(task, timeout=0.5)).state, Pending):
        continue
    return task


async def one_has_it(here: Host, there: Host, *wanted: PowerState) -> tuple[Host, Host]:
    """Wait until exactly one has the machine and nobody is in doubt; who has it, and who has not."""
    while True:
        states = {host: await host.power_state(VM) for host in (here, there)}
        having = [host for host, state in states.items() if state is not None]
        calm = not any(host.daemon.control.migration.arrivals or host.daemon.control.machines.barred for host in states)
        if len(having) == 1 and states[having[0]] in wanted and calm:
            return having[0], there if having[0] is here else here
        running = [host.daemon.control.backend.world.domains.get(VM) for host in states]  # type: ignore[attr-defined]
        assert sum(domain is not None and domain.runs for domain in running) < 2, "two guests run"
        await asyncio.sleep(0.05)


async def in_order(here: Host, there: Host, *wanted: PowerState) -> Host:
    """One has it, the other has nothing of it, and all can be done with it at once."""
    owner, other = await one_has_it(here, there, *wanted)
    host = await other.xenops.HOST.stat()
    assert host.memory_free == host.memory_total, "memory is left behind at the other host"
    assert (await owner.xenops.VM.stat(VM)).given_to is msgspec.UNSET
    if wanted == (RUNNING,):
        assert await owner.is_whole(VM)
    else:
        await owner.xenops.finished(await owner.xenops.VM.start(VM, paused=False))
    await owner.xenops.finished(await owner.xenops.VM.migrate(VM, other.queue))
    assert await owner.power_state(VM) is None
    assert await other.power_state(VM) is RUNNING
    with pytest.raises(Migrated):
        await owner.xenops.VM.stat(VM)
    assert await other.is_whole(VM)
    drives = await other.xenops.VBD.list(VM)
    assert all(drive.state.plugged and drive.state.active for drive in drives)
    return owner


def tell(path: Path, play: Play) -> None:
    async def run() -> None:
        async with asyncio.timeout(55), two(path) as hosts:
            misfortunes = Misfortunes(hosts)
            await started(hosts[0])
            await play(*hosts, misfortunes)
            await misfortunes.over()
            await in_order(*hosts, RUNNING)

    asyncio.run(run())


@pytest.mark.parametrize("answer", [False, True], ids=["message", "answer"])
@pytest.mark.parametrize("harm", Harm, ids=lambda harm: harm.value)
@pytest.mark.parametrize("method", ["Migration.offer", "Migration.query", "Migration.commit"])
def test_a_message_of_a_migration(method: str, harm: Harm, answer: bool, tmp_path: Path) -> None:
    async def play(here: Host, there: Host, misfortunes: Misfortunes) -> None:
        misfortunes.befall(method, harm, answer=answer)
        asking = asyncio.create_task(asked(here, there))
        await misfortunes.met.wait()
        await asking

    tell(tmp_path, play)


@pytest.mark.parametrize("answer", [False, True], ids=["message", "answer"])
@pytest.mark.parametrize("harm", Harm, ids=lambda harm: harm.value)
def test_a_destination_that_asks(harm: Harm, answer: bool, tmp_path: Path) -> None:
    """The source cannot say what it decided; the destination asks for it."""

    async def play(here: Host, there: Host, misfortunes: Misfortunes) -> None:
        misfortunes.unsaid.add("Migration.commit")
        misfortunes.befall("Migration.decision", harm, answer=answer)
        asking = asyncio.create_task(asked(here, there))
        await misfortunes.met.wait()
        await asking

    tell(tmp_path, play)


@pytest.mark.parametrize("answer", [False, True], ids=["message", "answer"])
@pytest.mark.parametrize("harm", Harm, ids=lambda harm: harm.value)
def test_a_source_that_gives_up(harm: Harm, answer: bool, tmp_path: Path) -> None:
    """The destination is prepared, or about to be, and the source never hears of it."""

    async def play(here: Host, there: Host, misfortunes: Misfortunes) -> None:
        misfortunes.unsaid.add("Migration.query")
        misfortunes.befall("Migration.abort", harm, answer=answer)
        asking = asyncio.create_task(asked(here, there))
        await misfortunes.met.wait()
        await asking

    tell(tmp_path, play)


@pytest.mark.parametrize("reachable", [True, False])
def test_a_source_that_is_away_for_longer_than_is_remembered(reachable: bool, tmp_path: Path) -> None:
    """It has decided, and the destination knows that from asking; the source hears only days later that its machine has arrived."""

    async def run() -> None:
        async with asyncio.timeout(55), two(tmp_path) as hosts:
            here, there = hosts
            misfortunes = Misfortunes(hosts)
            await started(here)
            misfortunes.unsaid.add("Migration.commit")
            asking = asyncio.create_task(asked(here, there))
            crossings = there.daemon.control.migration.crossings
            while [it.phase for it in crossings] != [Phase.SETTLED]:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.05)
            if not reachable:
                misfortunes.unsaid.add("Migration.decision")
            await there.daemon._arrivals.expire(older_than_s=-10)
            await misfortunes.over()
            await asking
            await in_order(*hosts, RUNNING)
            for host in hosts:
                await host.daemon._arrivals.expire(older_than_s=-10)
            assert [list(host.daemon.control.migration.crossings) for host in hosts] == [[], []]

    asyncio.run(run())


@pytest.mark.parametrize("when", ["first", "middle", "last"])
@pytest.mark.parametrize("harm", Harm, ids=lambda harm: harm.value)
def test_the_stream(harm: Harm, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def run() -> None:
        async with asyncio.timeout(55), two(tmp_path) as hosts:
            stream = Stream(monkeypatch)
            await started(hosts[0])
            stream.befall(when, harm, hosts)
            asking = asyncio.create_task(asked(*hosts))
            await stream.met.wait()
            await asking
            assert await in_order(*hosts, RUNNING) is hosts[0], "a stream that is not whole was taken for a machine"

    asyncio.run(run())
