# SPDX-License-Identifier: Apache-2.0
"""What a disk does to a store: torn tails, changed bytes, lost pages; and what another version of us left behind.

The daemon starts, what is whole is usable, what is not is named, and nothing that was changed is taken for a record.
"""

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import with_daemon
from tests.xenopsd.machines import full_machine, plain_vm
from tests.xenopsd.store.schema_1 import GOLDEN, TASK
from tests.xenopsd.store.test_store import registered, with_database
from xenops.client import Xenops
from xenops.errors import DoesNotExist, IoError, RecordDamaged
from xenops.events import Kind
from xenops.types.vm import Vm
from xenopsd.main import Daemon
from xenopsd.store.database import Database
from xenopsd.store.file import VERSION
from xenopsd.store.journal import Journal
from xenopsd.store.machines import Machines
from xenopsd.store.outcomes import Outcomes
from xenopsd.store.seal import Damaged, seal, unseal

COUNT = 200
PAGE = 4096
NAMES = {f"vm-{n:03}" for n in range(COUNT)}


def filled(path: Path) -> Path:
    """A store with some machines, all of it in the file itself."""

    async def write(database: Database) -> None:
        machines = Machines(database)
        for name in sorted(NAMES):
            await registered(machines, plain_vm(name))

    with_database(path, write)
    with closing(sqlite3.connect(path)) as store:
        store.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return path


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return filled(tmp_path_factory.mktemp("store") / "xenopsd.db")


def found(path: Path) -> dict[str, Vm]:
    """The machines of a store, each as it was registered."""
    machines: dict[str, Vm] = {}

    async def read(database: Database) -> None:
        machines.update({machine.id: machine.vm for machine in Machines(database)})

    with_database(path, read)
    assert all(vm == plain_vm(id) for id, vm in machines.items()), "a changed record was believed"
    return machines


def roots_of(path: Path) -> set[int]:
    """The pages without which a table cannot be found."""
    with closing(sqlite3.connect(path)) as store:
        return {row[0] for row in store.execute("SELECT rootpage FROM sqlite_master")}


def lose_page_of(path: Path, what: bytes) -> None:
    with path.open("r+b") as file:
        page = file.read().index(what) // PAGE
        assert page + 1 not in roots_of(path)
        file.seek(page * PAGE)
        file.write(b"\xff" * PAGE)


def pages_of(path: Path) -> int:
    return path.stat().st_size // PAGE


@pytest.mark.parametrize("what", ["zeroes", "garbage", "one byte"])
def test_any_page_may_be_lost(store: Path, tmp_path: Path, what: str) -> None:
    whole = store.read_bytes()
    least, roots = COUNT, roots_of(store)
    for page in range(1, pages_of(store)):  # without the first nobody knows what the rest is
        untrusted = bytearray(whole)
        at = page * PAGE
        if what == "one byte":
            untrusted[at + PAGE - 700] ^= 0x10
        else:
            untrusted[at : at + PAGE] = bytes(PAGE) if what == "zeroes" else (b"\x0d\xff\x17" * PAGE)[:PAGE]
        path = tmp_path / f"{page}.db"
        path.write_bytes(untrusted)
        left = found(path)
        assert found(path) == left, "the next time there is nothing to mend"
        least = min(least, len(left) if page + 1 not in roots else COUNT)
    assert least >= (COUNT - 1 if what == "one byte" else COUNT // 2)


def test_a_page_that_is_lost_while_we_run_costs_what_is_on_it(store: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(store, tmp_path / "xenopsd.db"))

    async def run(database: Database) -> None:
        machines, renamed = Machines(database), set[str]()
        database._connection.execute("PRAGMA cache_size = 1")  # pages: what is not in memory is read again
        lose_page_of(path, b"vm-100")
        database.write("UPDATE machines SET seq = seq")  # owed, and it cannot be done
        for name in sorted(NAMES):
            try:
                await registered(machines, msgspec.structs.replace(plain_vm(name), name="renamed"))
            except IoError:
                continue
            renamed.add(name)
        assert 0 < len(renamed) < COUNT
        assert {name for name in NAMES if machines.find(name).vm.name == "renamed"} == renamed
        await registered(machines, plain_vm("vm-999"))

    with_database(path, run)
    with_database(path, lambda database: _is_there(Machines(database), "vm-999"))


async def _is_there(machines: Machines, vm: str) -> None:
    assert vm in machines


def test_what_was_damaged_is_kept_and_told(store: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    untrusted = bytearray(store.read_bytes())
    leaf = next(
        n for n in range(4, pages_of(store)) if untrusted[n * PAGE] == 0x0A and b"vm-" in untrusted[n * PAGE :][:PAGE]
    )
    untrusted[leaf * PAGE : (leaf + 1) * PAGE] = bytes(PAGE)
    (tmp_path / "xenopsd.db").write_bytes(untrusted)

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        assert (await xenops.get_diagnostics())["store"]["salvaged"]
        left = {it.vm.id for it in await xenops.VM.list()}
        assert 0 < len(left) < COUNT
        await xenops.finished(await xenops.VM.start(min(left)))

    with_daemon(tmp_path, work)
    assert "was damaged" in caplog.text
    (kept,) = tmp_path.glob("xenopsd.db.damaged-*")
    assert kept.read_bytes() == untrusted


def test_a_changed_byte_is_found_by_its_seal_and_told(store: Path, tmp_path: Path) -> None:
    untrusted = store.read_bytes().replace(b"vm-007\xa4name\xa5plain", b"vm-007\xa4name\xa5plane")
    assert untrusted != store.read_bytes()
    (tmp_path / "xenopsd.db").write_bytes(untrusted)

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        assert (await xenops.get_diagnostics())["store"] == {"salvaged": False, "damaged": ["vm-007"]}
        with pytest.raises(RecordDamaged, match="register it again"):
            await xenops.VM.start("vm-007")
        assert {it.vm.id for it in await xenops.VM.list()} == NAMES - {"vm-007"}
        await xenops.VM.add(plain_vm("vm-007"))
        assert (await xenops.get_diagnostics())["store"]["damaged"] == []
        await xenops.VM.remove("vm-007")
        with pytest.raises(DoesNotExist):
            await xenops.VM.stat("vm-007")

    with_daemon(tmp_path, work)


def test_the_end_of_the_file_may_be_lost(store: Path, tmp_path: Path) -> None:
    whole = store.read_bytes()
    for lost, least in ((1, COUNT - 20), (PAGE + 1, COUNT // 2), (len(whole) // 2, 0)):
        path = tmp_path / f"{lost}.db"
        path.write_bytes(whole[:-lost])
        left = found(path)
        assert len(left) >= least
        assert found(path) == left


def test_a_schema_that_never_was_is_left_alone(store: Path, tmp_path: Path) -> None:
    untrusted = bytearray(store.read_bytes())
    untrusted[60] |= 0x80  # where SQLite keeps the version
    (tmp_path / "xenopsd.db").write_bytes(untrusted)
    with pytest.raises(IoError, match="never was"):
        found(tmp_path / "xenopsd.db")
    assert (tmp_path / "xenopsd.db").read_bytes()[PAGE:] == untrusted[PAGE:]


def test_text_that_is_none_any_more_is_damage(tmp_path: Path) -> None:
    """A changed byte of a key may leave no text at all, of which SQLite itself has nothing to say."""

    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        await xenops.VM.import_metadata(msgspec.to_builtins(full_machine("vm-2").metadata()))
        await xenops.Task.wait(await xenops.VM.start("vm-1"), 10.0)

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        assert len((await xenops.get_diagnostics())["store"]["damaged"]) > 1
        assert await xenops.Task.list() == []
        await xenops.VM.add(plain_vm("vm-1"))
        await xenops.finished(await xenops.VM.start("vm-2"))

    with_daemon(tmp_path, first)
    with closing(sqlite3.connect(tmp_path / "xenopsd.db")) as store:
        store.execute("UPDATE machines SET id = CAST(X'766dff31' AS TEXT) WHERE id = 'vm-1'")
        store.execute("UPDATE devices SET kind = CAST(X'7662ff' AS TEXT) WHERE dev = 'xvda'")
        for table, key in (("tasks", "id"), ("outcomes", "message_id")):
            store.execute(f"UPDATE {table} SET {key} = CAST(X'31ff' || {key} AS TEXT)")
        store.commit()
    with_daemon(tmp_path, second)


def test_a_torn_log_is_a_shorter_history(tmp_path: Path) -> None:
    async def write(database: Database) -> None:
        machines = Machines(database)
        for n in range(12):
            await registered(machines, plain_vm(f"vm-{n:03}"))
        for suffix in ("", "-wal"):
            shutil.copy(f"{database.path}{suffix}", f"{tmp_path / 'copy.db'}{suffix}")

    with_database(tmp_path / "live.db", write)
    log = (tmp_path / "copy.db-wal").read_bytes()
    assert len(log) > 20 * PAGE
    before = -1
    for n, size in enumerate(range(0, len(log) + 1, 1777)):
        for torn in (log[:size], log[:size] + b"\xa5" * (len(log) - size)):
            path = tmp_path / f"{n}.db"
            for old in tmp_path.glob(f"{n}.db*"):
                old.unlink()
            shutil.copy(tmp_path / "copy.db", path)
            Path(f"{path}-wal").write_bytes(torn)
            machines = found(path)
            assert sorted(machines) == [f"vm-{k:03}" for k in range(len(machines))]
            assert len(machines) >= before
        before = len(machines)
    assert before >= 11


def test_an_older_store_becomes_one_of_ours(tmp_path: Path) -> None:
    shutil.copy(GOLDEN, tmp_path / "db")

    async def read(database: Database) -> None:
        machines = Machines(database)
        assert [machine.id for machine in machines] == ["vm-1", "vm-2"]
        assert machines.find("vm-1").metadata() == full_machine("vm-1").metadata()
        assert machines.find("vm-1").device(Kind.VBD, "xvda").active
        assert [entry.record for entry in Journal(database).entries()] == [TASK]
        assert Outcomes(database, keep_s=1.0).recall("m-1") == b"reply"
        assert list(database.rows("PRAGMA user_version")) == [(VERSION,)]

    for _ in range(2):
        with_database(tmp_path / "db", read)


def test_a_crash_on_the_way_to_a_newer_schema_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(GOLDEN, tmp_path / "db")

    def dies(record: bytes, *key: str) -> bytes:
        if key[0] == "tasks":
            raise OSError("killed")
        return seal(record, *key)

    async def nothing(database: Database) -> None:
        raise AssertionError("it was opened")

    monkeypatch.setattr("xenopsd.store.file.seal", dies)
    with pytest.raises(IoError, match="killed"):
        with_database(tmp_path / "db", nothing)
    monkeypatch.undo()
    test_an_older_store_becomes_one_of_ours(tmp_path)


def test_a_seal_holds_what_it_is_kept_under() -> None:
    kept = seal(msgspec.msgpack.encode("record"), "machines", "body", "vm-1")
    assert unseal(kept, "machines", "body", "vm-1") == msgspec.msgpack.encode("record")
    for untrusted in (kept[:-1], kept + b"\0", b"", b"\0" * 8, None, "text"):
        with pytest.raises(Damaged):
            unseal(untrusted, "machines", "body", "vm-1")
    with pytest.raises(Damaged):
        unseal(kept, "machines", "body", "vm-2")
