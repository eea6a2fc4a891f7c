# SPDX-License-Identifier: Apache-2.0
"""The journal where there is no room, on the disk or among the descriptors."""

import asyncio
import errno
import os
import resource
from pathlib import Path

import pytest

from message_switch.journal import Journal, NoRoom, parse
from message_switch.model.records import LastId
from tests.message_switch.test_journal import RECORDS, WHOLE, reopened, write


def test_a_full_disk_keeps_nobody_from_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "journal"
    path.write_bytes(WHOLE + b"torn")
    (tmp_path / "journal.new").write_bytes(b"left by one that was killed")
    (tmp_path / "journal.cut").mkdir()  # it cannot be written
    monkeypatch.setattr(os, "posix_fallocate", _is_full)
    assert list(Journal(path).open()) == RECORDS
    assert path.read_bytes() == WHOLE
    assert not (tmp_path / "journal.new").exists()


def test_without_a_free_descriptor_it_is_compacted_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, plainly = tmp_path / "journal", os.open

    def no_more(path: object, *arguments: int) -> int:
        if str(path).endswith(".new"):
            raise OSError(errno.EMFILE, "Too many open files")
        return plainly(path, *arguments)  # type: ignore[arg-type]

    async def grow() -> None:
        journal = Journal(path, rewrite_bytes=4096)
        assert list(journal.open()) == []
        with monkeypatch.context() as patched:
            patched.setattr(os, "open", no_more)
            await write(journal, RECORDS * 50)
        assert await reopened(path) == RECORDS * 50

    asyncio.run(grow())


def test_what_was_noted_before_the_snapshot_is_not_written_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or who settles it meanwhile would find that it need not be written, and it would come back with the snapshot."""

    async def full() -> None:
        loop, journal = asyncio.get_running_loop(), Journal(tmp_path / "journal")
        assert list(journal.open()) == []
        journal.snapshot = lambda: [LastId(9)]
        meanwhile: list[int] = []
        safe: list[int] = []
        done = asyncio.Event()

        async def note() -> None:
            meanwhile.append(journal.note(LastId(2)))

        def no_room(batch: bytes) -> None:
            asyncio.run_coroutine_threadsafe(note(), loop).result(10)
            raise NoRoom(errno.ENOSPC, "No space left on device")

        def synced(up_to: int) -> None:
            safe.append(up_to)
            done.set()

        monkeypatch.setattr(journal, "_append", no_room)
        journal.on_synced = synced
        running = asyncio.create_task(journal.run())
        journal.note(LastId(1))
        await asyncio.wait_for(done.wait(), 10)
        assert safe == meanwhile
        assert not journal.forget(meanwhile[0])
        await journal.close(running)

    asyncio.run(full())
    assert [record for _, record in parse((tmp_path / "journal").read_bytes())] == [LastId(9)]


def test_while_the_disk_is_full_what_is_settled_is_not_remembered(tmp_path: Path) -> None:
    async def full() -> None:
        journal = Journal(tmp_path / "journal")
        assert list(journal.open()) == []
        told = asyncio.Event()
        journal.on_full = lambda full: told.set() if full else None
        journal.alive = lambda: 1 << 30  # nothing to be won by writing it anew
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (journal.size, hard))
        try:
            running = asyncio.create_task(journal.run())
            first = journal.note(RECORDS[4])
            await asyncio.wait_for(told.wait(), 10)
            assert not journal.forget(first), "it is what is tried again"
            assert all(journal.forget(journal.note(RECORDS[4])) for _ in range(100))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        await journal.close(running)

    asyncio.run(full())
    assert [record for _, record in parse((tmp_path / "journal").read_bytes())] == [RECORDS[4]]


def _is_full(*arguments: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")
