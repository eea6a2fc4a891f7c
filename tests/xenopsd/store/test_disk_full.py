# SPDX-License-Identifier: Apache-2.0
"""A disk without room: a named fault, nothing forgotten, and memory and file agree again as soon as there is room."""

import asyncio
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import with_daemon
from tests.xenopsd.machines import full_machine, id_of, plain_vm
from tests.xenopsd.store.test_store import a_task, registered, with_database
from xenops.client import Xenops
from xenops.errors import Fault, IoError
from xenops.events import Change, Kind
from xenops.types.disk import Local
from xenops.types.task import Completed
from xenops.types.vbd import Vbd
from xenopsd.engine.tasks import Task, Tasks
from xenopsd.engine.workers import Job, Workers
from xenopsd.main import Daemon
from xenopsd.store.database import Database
from xenopsd.store.journal import Journal
from xenopsd.store.machines import Machines
from xenopsd.store.transaction import Transaction


@contextmanager
def no_room() -> Iterator[None]:
    """No file of this process may grow beyond 4 KiB, which a store always has already."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def rows(path: Path, table: str) -> list[str]:
    found: list[str] = []

    async def read(database: Database) -> None:
        found.extend(row[0] for row in database.rows(f"SELECT id FROM {table}"))

    with_database(path, read)
    return found


def test_a_record_that_cannot_be_written_was_never_there(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        machines = Machines(database)
        with no_room():
            for id in ("vm-1", "vm-2"):
                with pytest.raises(IoError):
                    await registered(machines, plain_vm(id))
            assert list(machines) == []
        await registered(machines, plain_vm("vm-3"))

    with_database(tmp_path / "db", work)
    assert rows(tmp_path / "db", "machines") == ["vm-3"]


def test_what_is_so_in_the_world_is_owed(tmp_path: Path) -> None:
    drive = Vbd(id=id_of("vm-1", "xvda"), position="xvda")

    async def work(database: Database) -> None:
        machines = Machines(database)
        async with machines.changing("vm-1") as revision:
            revision.put(plain_vm())
            revision.put_device(Kind.VBD, drive)
            await revision.commit()
        with no_room():
            machines.set_active(Kind.VBD, "vm-1", "xvda", True)
            await machines.note(Kind.VBD, msgspec.structs.replace(drive, backend=Local(path="/iso")))
            with pytest.raises(IoError):
                await machines.commit()
        await database.persist()

    async def read(database: Database) -> None:
        device = Machines(database).find("vm-1").device(Kind.VBD, "xvda")
        assert device.active
        assert device.record.backend == Local(path="/iso")

    with_database(tmp_path / "db", work)
    with_database(tmp_path / "db", read)


def test_a_refused_task_is_not_found_again(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        journal = Journal(database)
        with no_room(), pytest.raises(IoError):
            await journal.accept(a_task("t-1"), b"", None, begun=False)
        await database.persist()
        await journal.accept(a_task("t-2"), b"", None, begun=False)

    with_database(tmp_path / "db", work)
    assert rows(tmp_path / "db", "tasks") == ["t-2"]


def test_what_is_refused_again_and_again_is_not_owed(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        with no_room():
            for n in range(50):
                with pytest.raises(IoError):
                    await xenops.VM.add(plain_vm(f"vm-{n}"))
            assert len(daemon.database._writes) <= 1
        await daemon.database.persist()
        await xenops.VM.add(plain_vm("vm-1"))

    with_daemon(tmp_path, work)


def test_what_is_owed_at_the_end_is_said_to_be_lost(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def work(database: Database) -> None:
        with no_room():
            database.write("INSERT INTO machines VALUES (?, ?, ?)", "vm-1", 1, b"")
            waiting = asyncio.create_task(database.persist())
            await asyncio.sleep(0)
            database.close()
            with pytest.raises(IoError):
                await waiting

    with_database(tmp_path / "db", work)
    assert "1 changes that could not be written" in caplog.text


def test_a_store_for_which_there_is_no_room_says_so(tmp_path: Path) -> None:
    async def nothing(database: Database) -> None:
        raise AssertionError("it was opened")

    with no_room(), pytest.raises(IoError, match="db"):
        with_database(tmp_path / "db", nothing)


def test_a_refused_statement_harms_no_other(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        registering = asyncio.create_task(registered(Machines(database), plain_vm("vm-1")))
        broken = Transaction(database)
        broken.write("INSERT INTO machines VALUES (?, ?, ?)", "vm-2", 7, b"")
        broken.write("INSERT INTO machines VALUES (?, ?, ?)", "vm-3", object(), b"")
        broken.then(lambda: pytest.fail("it was not written"))
        accepted = asyncio.create_task(Journal(database).accept(a_task("t-1"), b"", None, begun=False))
        await asyncio.sleep(0)
        with pytest.raises(IoError):
            await broken.commit()
        await registering
        await accepted

    with_database(tmp_path / "db", work)
    assert rows(tmp_path / "db", "machines") == ["vm-1"]
    assert rows(tmp_path / "db", "tasks") == ["t-1"]


def test_work_is_refused_and_an_end_is_told_only_when_it_is_durable(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        removed: list[str] = []
        tasks = Tasks(started_ms=1, changed=lambda task: None, removed=lambda task: removed.append(task.id))
        workers = Workers(tasks, Journal(database), size=1, queue_limit=9)
        may_end, refused_ran = asyncio.Event(), []

        async def waits(task: Task) -> None:
            await may_end.wait()

        async def never(task: Task) -> None:
            refused_ran.append(task.id)

        first = tasks.new("first", vm="a")
        await workers.submit(Job("a", first, waits, payload=b"1"))
        with no_room():
            for tag in ("a", "b"):
                refused = tasks.new("refused", vm=tag)
                with pytest.raises(Fault) as fault:
                    await workers.submit(Job(tag, refused, never, payload=b"2"))
                assert fault.value.name == "IoError"
            may_end.set()
            await first.wait(0.2)
            assert not first.ended, "its end was told before it was durable"
        await first.wait(10.0)
        assert isinstance(first.state, Completed)
        await workers.stop(1.0)
        assert len(removed) == 2
        assert list(tasks) == [first]
        assert refused_ran == []

    with_database(tmp_path / "db", work)
    assert rows(tmp_path / "db", "tasks") == ["1-1"]


def test_tasks_come_back_in_the_order_in_which_they_were_accepted(tmp_path: Path) -> None:
    ids = [f"{life:x}-{n}" for life in (0x99, 0x100) for n in range(1, 13)]

    async def write(database: Database) -> None:
        for id in reversed(ids):
            await Journal(database).accept(a_task(id), b"", None, begun=False)

    async def read(database: Database) -> None:
        assert [entry.record.id for entry in Journal(database).entries()] == ids

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)


def test_what_is_refused_changes_nothing_that_anybody_sees(tmp_path: Path) -> None:
    metadata = full_machine().metadata()
    more = Vbd(id=id_of("vm-1", "more"))

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.import_metadata(msgspec.to_builtins(metadata))
        token = await xenops.UPDATES.last_id()
        with no_room():
            for change in (
                lambda: xenops.VM.remove("vm-1"),
                lambda: xenops.VM.rename("vm-1", "new"),
                lambda: xenops.VM.import_metadata(msgspec.to_builtins(full_machine("vm-2").metadata())),
                lambda: xenops.VM.import_metadata({**msgspec.to_builtins(metadata), "vbds": []}),
                lambda: xenops.VBD.add(more),
                lambda: xenops.VBD.remove(id_of("vm-1", "xvda")),
            ):
                with pytest.raises(IoError):
                    await change()
            assert [stat.vm for stat in await xenops.VM.list()] == [metadata.vm]
            assert await xenops.VM.export_metadata("vm-1") == metadata
            updates = (await xenops.UPDATES.get(token, 0.0)).updates
            assert {(update.id, update.change) for update in updates} <= {("vm-1", Change.CHANGED)}
        await xenops.VBD.add(more)
        await xenops.VM.remove("vm-1")
        assert await xenops.VM.list() == []

    with_daemon(tmp_path, work)


def test_callers_are_told_and_go_on_when_there_is_room(tmp_path: Path) -> None:
    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        with no_room():
            for _ in range(3):
                with pytest.raises(IoError):
                    await xenops.VM.start("vm-1")
                with pytest.raises(IoError):
                    await xenops.VM.add(plain_vm("vm-2"))
            assert await xenops.Task.list() == []
        await daemon.database.persist()
        await xenops.VM.add(plain_vm("vm-2"))
        await xenops.finished(await xenops.VM.start("vm-2"))

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        assert [stat.vm.id for stat in await xenops.VM.list()] == ["vm-1", "vm-2"]
        await xenops.finished(await xenops.VM.start("vm-1"))

    with_daemon(tmp_path, first)
    with_daemon(tmp_path, second)
