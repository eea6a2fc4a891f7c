# SPDX-License-Identifier: Apache-2.0
"""A machine goes from one xenopsd to another."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.machines import full_machine, mobile_machine, plain_vm
from tests.xenopsd.migration.pair import Host, two
from xenops.errors import Busy, DoesNotExist, Migrated, MigrationFailed, ProgramFailed
from xenops.interfaces.xenops import Migration
from xenops.rpc import stub
from xenops.types.disk import Local
from xenops.types.network import Bridge
from xenops.types.process import Ended, Program
from xenops.types.vm import PowerState

VM = "vm-1"
RUNNING, PAUSED, HALTED = PowerState.RUNNING, PowerState.PAUSED, PowerState.HALTED


def with_two(path: Path, work: Callable[[Host, Host], Awaitable[None]], **settings: Any) -> None:
    async def run() -> None:
        async with asyncio.timeout(50), two(path, **settings) as (here, there):
            await work(here, there)

    asyncio.run(run())


async def started(host: Host, *, full: bool = False) -> None:
    if full:
        await host.xenops.VM.import_metadata(msgspec.to_builtins(mobile_machine(VM).metadata()))
    else:
        await host.xenops.VM.add(plain_vm(VM))
    await host.xenops.finished(await host.xenops.VM.start(VM, paused=False))


async def migrated(source: Host, destination: Host, **options: Any) -> Any:
    return await source.xenops.finished(await source.xenops.VM.migrate(VM, destination.queue, **options))


def test_there_and_back_again(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here, full=True)
        for source, destination in ((here, there), (there, here), (here, there)):
            result = await migrated(source, destination)
            assert result["running"] is True
            assert result["destination"] == destination.queue
            assert result["downtime_s"] > 0
            assert result["bytes"] > 1 << 20
            assert await source.power_state(VM) is None
            assert await destination.power_state(VM) is RUNNING
            with pytest.raises(Migrated) as gone:
                await source.xenops.VM.stat(VM)
            assert gone.value.queue == destination.queue
        drives = await there.xenops.VBD.list(VM)
        assert len(drives) == 4
        assert all(drive.state.plugged and drive.state.active for drive in drives)
        assert await there.is_whole(VM)
        for host in (here, there):
            if host is there:
                await host.xenops.finished(await host.xenops.VM.shutdown(VM))
            stat = await host.xenops.HOST.stat()
            assert stat.memory_free == stat.memory_total
        await there.xenops.VM.remove(VM)

    with_two(tmp_path, work)


@pytest.mark.parametrize("name", ["localhost", "xenops.here.simulator"])
@pytest.mark.parametrize("paused", [False, True])
def test_to_a_new_domain_of_the_same_host(name: str, paused: bool, tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here, full=True)
        if paused:
            await here.xenops.finished(await here.xenops.VM.pause(VM))
        for _ in range(2):
            before = (await here.xenops.VM.stat(VM)).state
            result = await here.xenops.finished(await here.xenops.VM.migrate(VM, name))
            assert result["destination"] == here.queue
            assert result["running"] is not paused
            assert result["bytes"] > 1 << 20
            after = (await here.xenops.VM.stat(VM)).state
            assert after.power_state is before.power_state is (PAUSED if paused else RUNNING)
            assert len(after.domids) == 1
            assert after.domids != before.domids
        drives = await here.xenops.VBD.list(VM)
        assert all(drive.state.plugged and drive.state.active for drive in drives)
        assert [each.vm.id for each in await here.xenops.VM.list()] == [VM]
        if not paused:
            await migrated(here, there)  # elsewhere as ever
            assert await there.is_whole(VM)
            return
        await here.xenops.finished(await here.xenops.VM.unpause(VM))
        assert await here.is_whole(VM)
        await here.xenops.finished(await here.xenops.VM.shutdown(VM))
        stat = await here.xenops.HOST.stat()
        assert stat.memory_free == stat.memory_total

    with_two(tmp_path, work)


@pytest.mark.parametrize("to", ["localhost", "xenops.there.simulator"])
def test_drives_and_interfaces_may_be_others_there(to: str, tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here, full=True)
        disk, network = Local(path="/dev/mirror"), Bridge(bridge="xenbr7")
        with pytest.raises(DoesNotExist, match="xvdz"):
            await here.xenops.VM.migrate(VM, to, disks={"xvdz": disk})
        with pytest.raises(DoesNotExist, match="77"):
            await here.xenops.VM.migrate(VM, to, networks={"77": network})
        assert await here.power_state(VM) is RUNNING
        task = await here.xenops.VM.migrate(VM, to, disks={"xvda": disk}, networks={"0": network})
        await here.xenops.finished(task)
        owner = here if to == "localhost" else there
        drives = {it.vbd.id.dev: it.vbd.backend for it in await owner.xenops.VBD.list(VM)}
        assert drives["xvda"] == disk
        assert drives["xvdb"] == Local(path="/dev/b")
        assert {it.vif.id.dev: it.vif.backend for it in await owner.xenops.VIF.list(VM)}["0"] == network
        assert await owner.is_whole(VM)

    with_two(tmp_path, work)


def test_what_the_metrics_say(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        def metric(name: str, **labels: str) -> float:
            value = here.daemon._registry.get_sample_value(name, labels)
            assert value is not None, f"there is no {name}"
            return value

        await started(here)
        with pytest.raises(MigrationFailed):
            await here.xenops.finished(await here.xenops.VM.migrate(VM, "xenops.nowhere.simulator"))
        assert metric("xenopsd_migration_sent_bytes_total") == 0
        nearby = await here.xenops.finished(await here.xenops.VM.migrate(VM, "localhost"))
        away = await migrated(here, there)
        assert metric("xenopsd_migrations_total", outcome="completed") == 2
        assert metric("xenopsd_migrations_total", outcome="failed") == 1
        assert metric("xenopsd_migrations_total", outcome="cancelled") == 0
        assert metric("xenopsd_migration_downtime_seconds_count") == 2
        assert metric("xenopsd_migration_sent_bytes_total") == nearby["bytes"] + away["bytes"]

    with_two(tmp_path, work, migration_patience=0.5)


def test_what_is_paused_arrives_paused(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here, full=True)
        await here.xenops.finished(await here.xenops.VM.pause(VM))
        for source, destination in ((here, there), (there, here)):
            result = await migrated(source, destination)
            assert result["running"] is False
            assert await source.power_state(VM) is None
            assert await destination.power_state(VM) is PAUSED
        await here.xenops.finished(await here.xenops.VM.unpause(VM))
        assert await here.power_state(VM) is RUNNING
        assert await here.is_whole(VM)

    with_two(tmp_path, work)


@pytest.mark.parametrize("to", ["localhost", "xenops.there.simulator"])
def test_what_stays_with_its_host_is_refused_by_name(to: str, tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        machine = full_machine(VM)
        await here.xenops.VM.import_metadata(msgspec.to_builtins(machine.metadata()))
        await here.xenops.finished(await here.xenops.VM.start(VM, paused=False))
        with pytest.raises(MigrationFailed) as refused:
            await here.xenops.finished(await here.xenops.VM.migrate(VM, to))
        for device in (*machine.metadata().pcis, *machine.metadata().vusbs):
            assert str(device.id) in str(refused.value)
        assert await here.power_state(VM) is RUNNING
        assert await there.power_state(VM) is None

    with_two(tmp_path, work)


def test_a_busy_guest_takes_several_rounds(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here)
        await here.xenops.DEBUG.trigger("memory", [VM, "16384", "50000"])
        result = await migrated(here, there, compress=True)
        assert 2 <= result["rounds"] <= 6
        assert await there.power_state(VM) is RUNNING

    with_two(tmp_path, work)


def test_what_is_refused(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here)
        with pytest.raises(MigrationFailed, match="does not answer"):
            await here.xenops.finished(await here.xenops.VM.migrate(VM, "xenops.nowhere.simulator"))
        await there.xenops.VM.add(plain_vm(VM))
        with pytest.raises(Exception, match="exists already"):
            await migrated(here, there)
        assert await here.power_state(VM) is RUNNING
        await there.xenops.VM.remove(VM)
        await migrated(here, there)

    with_two(tmp_path, work)


def test_one_that_must_not_be_moved(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await here.xenops.VM.add(msgspec.structs.replace(plain_vm(VM), platformdata={"nomigrate": "true"}))
        await here.xenops.finished(await here.xenops.VM.start(VM, paused=False))
        with pytest.raises(MigrationFailed, match="nomigrate"):
            await migrated(here, there)
        assert await here.power_state(VM) is RUNNING

    with_two(tmp_path, work)


def test_a_hook_that_fails_at_the_end_holds_nothing_up(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here)
        for host, hook in ((here, "vm-post-destroy"), (there, "vm-post-migrate")):
            program = (
                tmp_path / host.name / "hooks" / hook / "fails"
            )  # nobody runs programs here: that is a failure too
            program.parent.mkdir(parents=True)
            program.write_text("#!/bin/false\n")
            program.chmod(0o700)
            host.daemon.control._run_program = _fails
        await migrated(here, there)
        assert await here.power_state(VM) is None
        assert await there.power_state(VM) is RUNNING
        assert not there.daemon.control.migration.arrivals

    with_two(tmp_path, work)


async def _fails(program: Program) -> Ended:
    raise ProgramFailed(program.argv[0], "no such luck")


def test_one_machine_for_which_there_is_no_room_yet_keeps_no_other_waiting(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        peer = stub(Migration, here._client, there.queue, timeout_s=10.0)
        await peer.offer("one", "xenops.nowhere.x", mobile_machine("vm-1").metadata(), [1])
        again = asyncio.create_task(peer.offer("two", "xenops.nowhere.x", mobile_machine("vm-1").metadata(), [1]))
        await there.xenops.query()  # it has been heard by now
        other = await peer.offer("three", "xenops.nowhere.x", mobile_machine("vm-2").metadata(), [1])
        assert other.port
        assert not again.done(), "what was offered before is still there"
        for id in ("one", "three"):
            await peer.abort(id)
        assert (await again).port
        await peer.abort("two")

    with_two(tmp_path, work)


def test_nobody_takes_the_id_of_a_machine_on_its_way(tmp_path: Path) -> None:
    async def work(here: Host, there: Host) -> None:
        await started(here)
        await there.xenops.DEBUG.trigger("pause-call", ["vm.migrate_receive"])
        task = await here.xenops.VM.migrate(VM, there.queue)
        await there.daemon.control.backend.gate.arrival("vm.migrate_receive")  # type: ignore[attr-defined]
        assert not await there.xenops.VM.exists(VM)
        with pytest.raises(Busy):
            await there.xenops.VM.add(plain_vm(VM))
        await there.xenops.DEBUG.trigger("release-call", ["vm.migrate_receive"])
        await here.xenops.finished(task)
        assert await there.power_state(VM) is RUNNING

    with_two(tmp_path, work)
