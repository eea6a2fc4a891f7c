# SPDX-License-Identifier: Apache-2.0
"""The journal gives back what was written: all of it, or all up to where a crash tore it."""

import asyncio
import os
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from message_switch.journal import MAGIC, Journal, frame, parse
from message_switch.model.arguments import QueueArguments
from message_switch.model.message import Death
from message_switch.model.records import (
    Bound,
    ExchangeDeclared,
    LastId,
    QueueDeclared,
    QueueDeleted,
    Record,
    Settled,
    Stored,
)

RECORDS: list[Record] = [
    LastId(4),
    ExchangeDeclared("x", "topic", False, False),
    QueueDeclared("q", False, QueueArguments(message_ttl=5, overflow="reject-publish")),
    Bound("x", "q", "a.#"),
    Stored(5, ["q"], 1.5, "x", "a.b", b"\0\0", b"body", None, (Death("p", "expired", 2, 1.0, "", "p"),)),
    Settled(5, "q"),
]


async def write(journal: Journal, records: Iterable[Record]) -> int:
    """Until it is safe; how many syncs that took."""
    syncs: list[int] = []
    done = asyncio.Event()
    last = 0

    def synced(up_to: int) -> None:
        syncs.append(up_to)
        if up_to >= last:
            done.set()

    journal.on_synced = synced
    running = asyncio.create_task(journal.run())
    for record in records:
        last = journal.note(record)
    await asyncio.wait_for(done.wait(), 10)
    await journal.close(running)
    return len(syncs)


async def reopened(path: Path) -> list[Record]:
    journal = Journal(path)
    history = list(journal.open())
    running = asyncio.create_task(journal.run())
    await journal.close(running)
    return history


def test_written_together_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "journal"

    async def twice() -> None:
        journal = Journal(path)
        assert list(journal.open()) == []
        assert await write(journal, RECORDS) == 1  # one sync for all
        assert await reopened(path) == RECORDS
        assert await reopened(path) == RECORDS

    asyncio.run(twice())
    assert path.stat().st_mode & 0o777 == 0o600


def test_torn_at_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    whole = MAGIC + b"".join(map(frame, RECORDS))
    ends = [end for end, _ in parse(whole)]
    assert ends[-1] == len(whole)

    async def torn() -> None:
        for cut in range(len(whole)):
            path.write_bytes(whole[:cut])
            journal = Journal(path)
            survivors = sum(end <= cut for end in ends)
            assert list(journal.open()) == RECORDS[:survivors]
            if cut % 7:
                await journal.close(asyncio.create_task(journal.run()))
                continue
            await write(journal, [QueueDeleted("q")])  # and it goes on from there
            assert [record for _, record in parse(path.read_bytes())] == [*RECORDS[:survivors], QueueDeleted("q")]

    asyncio.run(torn())


@given(st.data())
def test_a_flipped_bit_never_gives_another_record(data: st.DataObject) -> None:
    whole = bytearray(MAGIC + b"".join(map(frame, RECORDS)))
    at = data.draw(st.integers(len(MAGIC), len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    found = [record for _, record in parse(bytes(whole))]
    assert found == RECORDS[: len(found)]
    assert len(found) < len(RECORDS)


@given(st.binary(max_size=200))
def test_no_file_crashes_it(untrusted: bytes) -> None:
    assert list(parse(untrusted)) == []
    list(parse(MAGIC + untrusted))


def test_compaction_keeps_what_is_alive(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    alive = [LastId(9), *RECORDS[1:4]]

    async def grow() -> None:
        journal = Journal(path, rewrite_bytes=4096)
        assert list(journal.open()) == []
        journal.snapshot = lambda: alive
        await write(journal, RECORDS * 50)
        assert await reopened(path) == alive

    asyncio.run(grow())
    assert sorted(os.listdir(tmp_path)) == ["journal"]


def test_a_disk_that_fails_ends_it(tmp_path: Path) -> None:
    async def broken() -> None:
        journal = Journal(tmp_path / "journal")
        assert list(journal.open()) == []
        running = asyncio.create_task(journal.run())
        spoken_to: list[int] = []
        journal.on_synced = spoken_to.append
        descriptor = os.open("/dev/null", os.O_RDONLY)
        os.dup2(descriptor, journal._fd)
        os.close(descriptor)
        journal.note(LastId(1))
        with pytest.raises(OSError, match="Bad file descriptor"):
            await asyncio.wait_for(asyncio.shield(running), 10)
        assert not spoken_to
        with pytest.raises(OSError, match="Bad file descriptor"):
            await journal.close(running)

    asyncio.run(broken())
