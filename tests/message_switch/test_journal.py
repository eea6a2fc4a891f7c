# SPDX-License-Identifier: Apache-2.0
"""The journal gives back what was written: all of it, or all up to where a crash tore it."""

import asyncio
import os
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from message_switch.journal import MAGIC, WORDLESS, Journal, frame, header, parse
from message_switch.model.arguments import QueueArguments
from message_switch.model.broker import Broker
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
from message_switch.model.recovery import restore

RECORDS: list[Record] = [
    LastId(4),
    ExchangeDeclared("x", "topic", False, False),
    QueueDeclared("q", False, QueueArguments(message_ttl=5, overflow="reject-publish")),
    Bound("x", "q", "a.#"),
    Stored(5, ["q"], 1.5, "x", "a.b", b"\0\0", b"body", None, (Death("p", "expired", 2, 1.0, "", "p"),)),
    Settled(5, "q"),
]


WORD, FALSE_WORD = b"a word..", b"a guess."
HEAD = header(WORD)
WHOLE = HEAD + b"".join(frame(record, WORD) for record in RECORDS)


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
    whole = WHOLE
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
def test_a_flipped_bit_costs_one_record(data: st.DataObject) -> None:
    whole = bytearray(WHOLE)
    ends = [end for end, _ in parse(bytes(whole))]
    at = data.draw(st.integers(len(HEAD), len(whole) - 1))
    whole[at] ^= 1 << data.draw(st.integers(0, 7))
    hit = sum(end <= at for end in ends)
    start = [len(HEAD), *ends][hit]
    damage: list[tuple[int, int]] = []
    found = [record for _, record in parse(bytes(whole), lambda start, end: damage.append((start, end)))]
    assert found == RECORDS[:hit] + RECORDS[hit + 1 :]
    # At the end, it looks like a torn tail.
    assert damage == ([] if hit == len(RECORDS) - 1 else [(start, ends[hit])])


@given(st.integers(len(MAGIC), len(HEAD) - 1), st.integers(0, 7))
def test_a_bit_flipped_in_the_word_costs_nothing(at: int, bit: int) -> None:
    whole = bytearray(WHOLE)
    whole[at] ^= 1 << bit
    assert [record for _, record in parse(bytes(whole))] == RECORDS


@given(st.data())
def test_what_stands_behind_a_lost_stretch_is_read(data: st.DataObject) -> None:
    ends = [len(HEAD), *(end for end, _ in parse(WHOLE))]
    first = data.draw(st.integers(0, len(RECORDS) - 2))
    last = data.draw(st.integers(first, len(RECORDS) - 2))
    noise = data.draw(st.binary(max_size=300))
    damage: list[tuple[int, int]] = []
    left = WHOLE[: ends[first]] + noise + WHOLE[ends[last + 1] :]
    found = [record for _, record in parse(left, lambda start, end: damage.append((start, end)))]
    assert found == RECORDS[:first] + RECORDS[last + 1 :]
    assert damage == ([(ends[first], ends[first] + len(noise))] if noise else [])


def test_a_message_that_looks_like_a_record_is_none() -> None:
    """Whoever sends it does not know the word."""
    liar = Stored(5, ["q"], 1.5, "", "q", b"", header(FALSE_WORD) + frame(LastId(99), FALSE_WORD), None, ())
    whole = bytearray(HEAD + frame(liar, WORD) + frame(LastId(7), WORD))
    whole[len(HEAD) + len(WORD)] ^= 0x80  # its length
    assert [record for _, record in parse(bytes(whole))] == [LastId(7)]


def test_an_older_journal_is_read_and_written_anew(tmp_path: Path) -> None:
    path = tmp_path / "journal"
    path.write_bytes(WORDLESS + b"".join(frame(record, b"") for record in RECORDS) + b"torn")

    async def upgraded() -> None:
        journal = Journal(path)
        assert list(journal.open()) == RECORDS
        journal.snapshot = lambda: RECORDS
        await write(journal, [QueueDeleted("q")])
        assert path.read_bytes().startswith(MAGIC)
        assert await reopened(path) == RECORDS

    asyncio.run(upgraded())


@pytest.mark.parametrize("beginning", [b"XMSJ0003", b"XMSJ0000", b"\0" * 8, b"SQLite f"])
def test_what_a_newer_switch_wrote_is_left_alone(tmp_path: Path, beginning: bytes) -> None:
    path, untouched = tmp_path / "journal", beginning + WHOLE[len(MAGIC) :]
    path.write_bytes(untouched)
    with pytest.raises(OSError, match="upgrade, restore a backup of it, or move it away"):
        list(Journal(path).open())
    assert path.read_bytes() == untouched


@pytest.mark.parametrize("lost", range(len(RECORDS)))
def test_what_is_left_after_damage_is_usable(lost: int) -> None:
    broker = Broker()
    restore(broker, RECORDS[:lost] + RECORDS[lost + 1 :])
    assert broker.last_id == (4 if RECORDS[lost] is RECORDS[4] else 5)
    assert ("q" in broker.queues) == (lost != 2)
    if lost == 5:
        assert [entry.message.body for entry in broker.queues["q"].ready] == [b"body"]


def test_a_queue_that_damage_has_taken_takes_no_other_one_s_messages() -> None:
    broker = Broker()
    shared = Stored(5, ["lost", "q"], 1.5, "x", "a.b", b"\0\0", b"body", None, ())
    restore(broker, [RECORDS[2], shared])
    assert [entry.message.body for entry in broker.queues["q"].ready] == [b"body"]


@given(st.binary(max_size=200))
def test_no_file_crashes_it(untrusted: bytes) -> None:
    assert list(parse(untrusted)) == []
    list(parse(WORDLESS + untrusted))
    assert list(parse(HEAD + untrusted)) == []


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
    assert sorted(os.listdir(tmp_path)) == ["journal", "journal.spare"]


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


# -- power loss: what the disk may have kept at any moment -----------------------------------------------------------


class Disk:
    """Remembers every step that the journal asks of the system, so that a power cut can be played after each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.steps: list[tuple[str, object]] = []
        for name in ("write", "fsync", "fdatasync", "rename"):
            monkeypatch.setattr(os, name, self._recorded(name, getattr(os, name)))

    def _recorded(self, name: str, real: Callable[..., object]) -> Callable[..., object]:
        def step(*arguments: object) -> object:
            target = arguments[0]
            where = os.readlink(f"/proc/self/fd/{target}") if isinstance(target, int) else str(target)
            result = real(*arguments)
            self.steps.append((name, Path(where).name))
            return result

        return step


def test_nothing_is_called_safe_before_the_disk_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, disk = tmp_path.name, Disk(monkeypatch)

    async def appended_and_rewritten() -> None:
        journal = Journal(tmp_path / "journal", rewrite_bytes=4096)
        list(journal.open())
        journal.snapshot = lambda: [LastId(9)]
        assert disk.steps == [("write", "journal"), ("fsync", "journal"), ("fsync", folder)]
        told = asyncio.Event()

        def synced(up_to: int) -> None:
            disk.steps.append(("told", up_to))
            told.set()

        journal.on_synced = synced
        running = asyncio.create_task(journal.run())
        for batch in (1, 200):
            disk.steps.clear()
            told.clear()
            for _ in range(batch):
                last = journal.note(RECORDS[4])
            await asyncio.wait_for(told.wait(), 10)
            writes = [step for step in disk.steps if step != ("write", "journal.new")]
            if batch == 1:
                assert disk.steps == [("write", "journal"), ("fdatasync", "journal"), ("told", last)]
            else:  # renamed only once it is on the disk, and told only once the name is
                assert writes == [
                    ("fdatasync", "journal.new"),
                    ("rename", "journal.new"),
                    ("fsync", folder),
                    ("told", last),
                ]
        await journal.close(running)

    asyncio.run(appended_and_rewritten())


@pytest.mark.parametrize("step", ["write", "fdatasync", "rename", "fsync"])
def test_compaction_that_dies_at_any_step_leaves_one_of_the_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path, alive = tmp_path / "journal", [LastId(9), *RECORDS[1:4]]

    async def die() -> None:
        journal = Journal(path, rewrite_bytes=4096)
        list(journal.open())
        journal.snapshot = lambda: alive
        await write(journal, RECORDS)
        journal = Journal(path, rewrite_bytes=4096)
        assert list(journal.open()) == RECORDS
        journal.snapshot = lambda: alive
        with monkeypatch.context() as patched:
            patched.setattr(os, step, _dies)
            running = asyncio.create_task(journal.run())
            for record in RECORDS * 50:
                journal.note(record)
            with pytest.raises(OSError, match="power"):
                await running
            with pytest.raises(OSError, match="power"):
                await journal.close(running)
        assert await reopened(path) == (alive if step == "fsync" else RECORDS)

    asyncio.run(die())


def _dies(*arguments: object) -> object:
    raise OSError("no power")
