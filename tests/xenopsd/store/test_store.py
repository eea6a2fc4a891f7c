# SPDX-License-Identifier: Apache-2.0
"""What is committed is there after a crash; what is damaged or newer is named, and the rest stays usable."""

import asyncio
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.xenopsd.machines import full_machine, plain_vm
from xenops.errors import DoesNotExist, IoError
from xenops.events import Kind
from xenops.types.task import Completed
from xenops.types.vm import Vm
from xenopsd.engine.tasks import Task
from xenopsd.store import outcomes as store_outcomes
from xenopsd.store.database import Database
from xenopsd.store.journal import Journal
from xenopsd.store.machines import Machines
from xenopsd.store.outcomes import Outcomes


def with_database(path: Path, work: Callable[[Database], Awaitable[None]]) -> None:
    async def run() -> None:
        database = Database(path)
        try:
            await work(database)
        finally:
            database.close()

    asyncio.run(run())


def a_task(id: str = "t-1") -> Task:
    return Task(id, "VM.start", vm="vm-1", dbg="", ctime=1, changed=lambda task: None)


def test_machines_and_devices_come_back_in_order(tmp_path: Path) -> None:
    metadata = full_machine().metadata()

    async def write(database: Database) -> None:
        machines = Machines(database)
        async with machines.changing("vm-1") as revision:
            assert revision.put_metadata(metadata) == (False, [])
            assert "vm-1" not in machines, "it is so only once it is durable"
            await revision.commit()
        await registered(machines, plain_vm("vm-2"))
        machines.set_active(Kind.VBD, "vm-1", "xvda", True)
        await machines.commit()
        async with machines.changing("vm-1") as revision:
            assert revision.put_device(Kind.VBD, metadata.vbds[0])
            await revision.commit()
        assert machines.find("vm-1").device(Kind.VBD, "xvda").active, "a new record does not unplug"

    async def read(database: Database) -> None:
        machines = Machines(database)
        assert [machine.id for machine in machines] == ["vm-1", "vm-2"]
        assert machines.find("vm-1").metadata() == metadata
        assert machines.find("vm-1").device(Kind.VBD, "xvda").active
        async with machines.changing("vm-1") as revision:
            assert len(revision.remove()) == 9
            assert "vm-1" in machines
            await revision.commit()
        with pytest.raises(DoesNotExist):
            machines.find("vm-1")

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)
    with_database(tmp_path / "db", lambda database: _assert_ids(database, ["vm-2"]))


async def registered(machines: Machines, vm: Vm) -> None:
    async with machines.changing(vm.id) as revision:
        revision.put(vm)
        await revision.commit()


async def _assert_ids(database: Database, ids: list[str]) -> None:
    assert [machine.id for machine in Machines(database)] == ids


def test_changes_of_one_machine_take_turns(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        machines = Machines(database)
        seen: list[bool] = []

        async def put(name: str) -> None:
            async with machines.changing("vm-1") as revision:
                seen.append(revision.put(plain_vm("vm-1", name)))
                await revision.commit()

        await asyncio.gather(*(put(name) for name in "abc"))
        assert seen == [False, True, True]
        assert machines.find("vm-1").vm.name == "c"

    async def read(database: Database) -> None:
        assert Machines(database).find("vm-1").vm.name == "c"

    with_database(tmp_path / "db", work)
    with_database(tmp_path / "db", read)


def test_who_leaves_does_not_take_the_change_with_him(tmp_path: Path) -> None:
    async def work(database: Database) -> None:
        machines = Machines(database)
        leaving = asyncio.create_task(registered(machines, plain_vm("vm-1")))
        await asyncio.sleep(0)
        leaving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await leaving
        await database.persist()
        assert "vm-1" in machines

    with_database(tmp_path / "db", work)
    with_database(tmp_path / "db", lambda database: _assert_ids(database, ["vm-1"]))


def test_what_was_committed_survives_a_kill(tmp_path: Path) -> None:
    script = """
import asyncio, os, sys
from pathlib import Path
from xenopsd.store import outcomes as store_outcomes
from xenopsd.store.database import Database
from xenopsd.store.machines import Machines
from tests.xenopsd.machines import plain_vm
from tests.xenopsd.store.test_store import registered
async def run():
    machines = Machines(Database(Path(sys.argv[1])))
    for n in range(1000000):
        await registered(machines, plain_vm(f"vm-{n}"))
        print(n, flush=True)
asyncio.run(run())
"""
    path = tmp_path / "db"
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None
        for line in writer.stdout:
            if int(line) == 50:
                writer.kill()
        said = int(line)
    found: list[str] = []

    async def read(database: Database) -> None:
        found.extend(machine.id for machine in Machines(database))

    with_database(path, read)
    assert found[: said + 1] == [f"vm-{n}" for n in range(said + 1)]


def test_tasks_of_an_earlier_life(tmp_path: Path) -> None:
    async def write(database: Database) -> None:
        journal = Journal(database)
        await journal.accept(a_task("t-1"), b"x", "m-1", begun=False)
        await journal.accept(a_task("t-2"), b"x", None, begun=True)
        await journal.finish(a_task("t-2"), Completed(duration_s=1.0))
        await journal.accept(a_task("t-3"), b"x", None, begun=False)
        await journal.begin(a_task("t-3"))
        await journal.accept(a_task("t-4"), b"x", None, begun=False)
        journal.forget(a_task("t-4"))

    async def read(database: Database) -> None:
        entries = list(Journal(database).entries())
        assert [(e.record.id, e.begun, type(e.record.state).__name__, e.message_id) for e in entries] == [
            ("t-1", False, "Pending", "m-1"),
            ("t-2", True, "Completed", None),
            ("t-3", True, "Pending", None),
        ]

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)


def test_outcomes_are_kept_for_their_time(tmp_path: Path) -> None:
    async def write(database: Database) -> None:
        outcomes = Outcomes(database, keep_s=100.0)
        await outcomes.remember("m-1", b"reply")

    async def read(database: Database) -> None:
        outcomes = Outcomes(database, keep_s=-1.0)
        assert outcomes.recall("m-1") == b"reply"
        assert outcomes.recall("m-2") is None
        outcomes.expire()
        await database.commit()
        assert outcomes.recall("m-1") is None

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)


def test_most_outcomes_are_in_the_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_outcomes, "NEWEST", 3)
    names = [f"m-{n}" for n in range(10)]

    async def write(database: Database) -> None:
        outcomes = Outcomes(database, keep_s=100.0)
        for name in names:
            await outcomes.remember(name, name.encode())
        assert len(outcomes._newest) == 3
        assert [outcomes.recall(name) for name in names] == [name.encode() for name in names]
        await outcomes.remember("m-2", b"again")
        assert outcomes.recall("m-2") == b"again"

    async def read(database: Database) -> None:
        outcomes = Outcomes(database, keep_s=100.0)
        assert outcomes._newest == {}
        assert [outcomes.recall(name) for name in ("m-2", "m-9", "m-10")] == [b"again", b"m-9", None]

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", read)


def test_a_newer_store_is_refused_untouched(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "db") as newer:
        newer.execute("PRAGMA user_version = 99")
    newer.close()
    with pytest.raises(IoError, match="newer xenopsd"):
        with_database(tmp_path / "db", lambda database: _assert_ids(database, []))


def test_garbage_is_named(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"this is no database" * 1000)
    with pytest.raises(IoError, match="not a database"):
        with_database(tmp_path / "db", lambda database: _assert_ids(database, []))


def test_one_unreadable_record_leaves_the_rest_usable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def write(database: Database) -> None:
        machines = Machines(database)
        for n in range(3):
            await registered(machines, plain_vm(f"vm-{n}"))
        database.write("UPDATE machines SET body = ? WHERE id = ?", b"\xc1", "vm-1")
        await machines.commit()

    with_database(tmp_path / "db", write)
    with_database(tmp_path / "db", lambda database: _assert_ids(database, ["vm-0", "vm-2"]))
    assert "vm-1" in caplog.text


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    async def write(database: Database) -> None:
        database.write("INSERT INTO nowhere VALUES (1)")
        with pytest.raises(IoError, match="nowhere"):
            await database.commit()
        await Journal(database).accept(a_task(), b"", None, begun=True)  # the next group is not harmed

    with_database(tmp_path / "db", write)
