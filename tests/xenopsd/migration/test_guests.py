# SPDX-License-Identifier: Apache-2.0
"""What a guest does by itself, and what is asked of a machine, while it migrates, at every stage of that."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.xenopsd.migration.meddling import Misfortunes
from tests.xenopsd.migration.pair import Host, two
from tests.xenopsd.migration.test_misfortunes import VM, in_order, started
from xenops.errors import Cancelled, Fault, Migrated
from xenops.types.vm import PowerState

RUNNING, HALTED = PowerState.RUNNING, PowerState.HALTED

# Where a migration is held: at whose call, before the guest was suspended or after.
LIVE = {"offered": ("here", "vm.migrate_send"), "receiving": ("there", "vm.migrate_receive")}
SUSPENDED = {"plugging": ("there", "vbd.plug"), "starting": ("there", "vm.create_device_model")}


@asynccontextmanager
async def held(path: Path, stage: str) -> AsyncIterator[tuple[Host, Host, str]]:
    """A migration under way, held at that stage until the block ends."""
    async with asyncio.timeout(50), two(path, migration_stall_timeout=20.0, migration_patience=20.0) as hosts:
        here, there = hosts
        await started(here)
        await here.xenops.DEBUG.trigger("memory", [VM, "32768", "0"])  # more than the network takes by itself
        whose, call = {**LIVE, **SUSPENDED}[stage]
        host = here if whose == "here" else there
        await host.xenops.DEBUG.trigger("pause-call", [call])
        task = await here.xenops.VM.migrate(VM, there.queue)
        await host.daemon.control.backend.gate.arrival(call)  # type: ignore[attr-defined]
        yield here, there, task


async def released(here: Host, there: Host) -> None:
    """Nobody is held any more."""
    for stages in (LIVE, SUSPENDED):
        for whose, call in stages.values():
            await (here if whose == "here" else there).xenops.DEBUG.trigger("release-call", [call])


async def ended(host: Host, task: str) -> str:
    """The name of its fault, or nothing."""
    try:
        await host.xenops.finished(task)
    except Fault as fault:
        return fault.name
    return ""


@pytest.mark.parametrize("stage", LIVE)
@pytest.mark.parametrize(("act", "state"), [("halt", HALTED), ("reboot", RUNNING), ("crash", HALTED)])
def test_a_guest_acts_by_itself(act: str, state: PowerState, stage: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with held(tmp_path, stage) as (here, there, task):
            await here.xenops.DEBUG.trigger(act, [VM])
            await released(here, there)
            assert await ended(here, task)
            assert await in_order(here, there, state) is here

    asyncio.run(run())


@pytest.mark.parametrize("stage", [*LIVE, *SUSPENDED])
@pytest.mark.parametrize("delay", [None, 5.0], ids=["hard", "clean"])
def test_a_machine_that_is_told_to_stop(delay: float | None, stage: str, tmp_path: Path) -> None:
    """Stopping wins: it is stopped here, and the migration is as good as cancelled."""

    async def run() -> None:
        async with held(tmp_path, stage) as (here, there, task):
            stopping = await here.xenops.VM.shutdown(VM, delay=delay)
            assert await ended(here, task) == "Cancelled"
            assert await ended(here, stopping) == ""
            await released(here, there)
            assert await in_order(here, there, HALTED) is here

    asyncio.run(run())


@pytest.mark.parametrize("stage", [*LIVE, *SUSPENDED])
def test_a_cancel(stage: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with held(tmp_path, stage) as (here, there, task):
            assert (await here.xenops.Task.stat(task)).cancellable
            await here.xenops.Task.cancel(task)
            with pytest.raises(Cancelled):
                await here.xenops.finished(task)
            assert await here.power_state(VM) is RUNNING
            await released(here, there)
            assert await in_order(here, there, RUNNING) is here

    asyncio.run(run())


@pytest.mark.parametrize("stage", [*LIVE, *SUSPENDED])
def test_what_else_is_asked_waits_for_its_turn(stage: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with held(tmp_path, stage) as (here, there, task):
            later = await here.xenops.VM.reboot(VM)
            await released(here, there)
            assert await ended(here, task) == ""
            with pytest.raises(Migrated) as gone:
                await here.xenops.finished(later)
            assert gone.value.queue == there.queue
            assert await in_order(here, there, RUNNING) is there

    asyncio.run(run())


def test_past_the_point_of_no_return(tmp_path: Path) -> None:
    """The destination does not answer any more: the record says whose the machine is, and nothing touches it here."""

    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path) as hosts:
            here, there = hosts
            misfortunes = Misfortunes(hosts)
            misfortunes.unsaid |= {"Migration.commit", "Migration.decision"}
            await started(here)
            task = await here.xenops.VM.migrate(VM, there.queue)
            while here.daemon.control.migration.given(VM) is None:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.01)
            assert not (await here.xenops.Task.stat(task)).cancellable
            await here.xenops.Task.cancel(task)
            stat = await here.xenops.VM.stat(VM)
            assert stat.given_to == there.queue
            assert stat.state.power_state is PowerState.SUSPENDED
            for ask in (here.xenops.VM.shutdown, here.xenops.VM.fast_resume, here.xenops.VM.remove):
                with pytest.raises(Migrated):
                    await ask(VM)
            with pytest.raises(Migrated):
                await here.xenops.VM.rename(VM, "other")
            assert await ended(here, task) == "MigrationFailed"
            with pytest.raises(Fault, match="answers"):
                await here.xenops.VM.migrate_resolve(VM, keep=True)
            await here.crash()
            await there.crash()
            assert (await here.xenops.VM.stat(VM)).given_to == there.queue
            assert not await there.xenops.VM.exists(VM)
            await misfortunes.over()
            assert await in_order(here, there, RUNNING) is there

    asyncio.run(run())


@pytest.mark.parametrize("keep", [True, False])
def test_an_operator_decides_for_a_destination_that_is_dead(keep: bool, tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path) as hosts:
            here, there = hosts
            misfortunes = Misfortunes(hosts)
            misfortunes.unsaid |= {"Migration.commit", "Migration.decision"}
            await started(here)
            assert await ended(here, await here.xenops.VM.migrate(VM, there.queue)) == "MigrationFailed"
            misfortunes.unsaid.add("Migration.query")
            await here.xenops.VM.migrate_resolve(VM, keep=keep)
            await here.wait_for(VM, RUNNING if keep else None)
            await misfortunes.over()
            if keep:  # the destination comes back after all, asks, and leaves it alone
                assert await in_order(here, there, RUNNING) is here
            else:
                assert there.daemon.control.migration.arrivals or await there.power_state(VM)

    asyncio.run(run())
