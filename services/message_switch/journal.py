# SPDX-License-Identifier: Apache-2.0
"""The file in which durable things are written down, and the thread that makes sure of it.

    XMSJ0002 word word { word length crc32 record } ...        the word: eight bytes, of this file alone and by chance

Records are gathered while the disk is busy and synced together, off the
event loop; `on_synced` says how far. A tail torn by a crash is cut off at the next start, and a damaged
record before it is reported and stepped over: the word tells where the next one begins, and nobody who sends a message
knows it. When much of the file is history
that no longer matters, it is written anew beside the old one and renamed over it.

Without room on the disk nothing is confirmed, `on_full` says so, and the same is tried again until there is room; some of it
we make ourselves when most of the file is history, in a spare room that was set aside for that. Any other
write that fails, and any sync, ends `run` with the error: a switch that cannot keep its word about durability must stop.
"""

import asyncio
import contextlib
import errno
import itertools
import logging
import mmap
import os
import secrets
import struct
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from message_switch.model.records import Record, Settled, Stored, decode, encode

log = logging.getLogger(__name__)

MAGIC, WORDLESS = b"XMSJ0002", b"XMSJ0001"  # the older one is read, and written anew at the first occasion
_WORD = 8
_BEGIN = len(MAGIC) + 2 * _WORD
_HEAD = struct.Struct(">II")
# That something is settled may be lost: it is then delivered again. So it need not hurry, but should not wait for long.
_LAZY_S = 0.05
# What a consumer has in hand is often settled within this time, and need not be written then.
_IN_HAND_S = 0.002
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_RETRY_S = 0.5
_REWRITE_AGAIN_S = 5.0  # after there was no room for it
_SPARE = 64 << 10  # for what is left once nearly everything is settled


class NoRoom(OSError):
    """The disk, our share of it or the longest file is full; it may pass."""


class Journal:
    """See the module. `open` it, read `history` to its end, then `run`."""

    def __init__(self, path: Path, *, rewrite_bytes: int = 16 << 20) -> None:
        self.path = path
        self.size = 0
        self.observe: Callable[[float], None] = lambda seconds: None
        self.on_synced: Callable[[int], None] = lambda up_to: None
        self.on_full: Callable[[bool], None] = lambda full: None
        self.snapshot: Callable[[], Iterable[Record]] = lambda: ()
        self.alive: Callable[[], int] = lambda: 0  # about how many bytes the snapshot would have
        self._rewrite_bytes = rewrite_bytes
        self._fd = self._folder = -1
        self._base = 0  # its size when it was last written anew
        self._rewrite_at = 0.0  # not before this is it tried again
        self._noted = 0
        self._pending: dict[int, Record] = {}
        self._due = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._closing = asyncio.Event()
        self._full = False
        self._word = b""
        self._old = False  # nothing may be appended to it before it was written anew
        self._thread = ThreadPoolExecutor(1, "journal")

    def open(self) -> Iterator[Record]:
        """What stands in the file, to be read to its end; a torn tail is cut off, and kept beside it for a look."""
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._folder = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._new.unlink(missing_ok=True)  # of a switch that was killed
        good = 0
        if size := os.fstat(self._fd).st_size:
            with mmap.mmap(self._fd, 0, access=mmap.ACCESS_READ) as untrusted:
                good, self._word = _beginning(untrusted)
                if not good and size > _BEGIN:
                    raise OSError(
                        f"{self.path} begins with {untrusted[: len(MAGIC)]!r}: a newer switch wrote it, or it is damaged; "
                        "upgrade, restore a backup of it, or move it away to start empty"
                    )
                self._old = bool(good) and not self._word
                for after, record in parse(untrusted, self._damaged):
                    good = after
                    yield record
                if good < size:
                    log.warning("%s: cut %d torn bytes after %d good ones", self.path, size - good, good)
                    with _whatever_comes("the torn bytes are not kept"):
                        self.path.with_suffix(".cut").write_bytes(untrusted[good:])
        os.ftruncate(self._fd, good)
        os.lseek(self._fd, good, os.SEEK_SET)
        self._word = self._word or secrets.token_bytes(_WORD)
        if not good:
            head = header(self._word)
            write_all(self._fd, head)
            good = len(head)
        os.fsync(self._fd)
        os.fsync(self._folder)
        self.size = good
        self._set_aside()

    def _damaged(self, start: int, end: int) -> None:
        log.error("%s: damaged from byte %d to %d: what stood there is lost, the rest is good", self.path, start, end)

    def note(self, record: Record) -> int:
        """See `Ledger`."""
        self._noted += 1
        self._pending[self._noted] = record
        if isinstance(record, Settled):
            self._within(_LAZY_S)
        elif isinstance(record, Stored):
            self._within(_IN_HAND_S)
        else:
            self.hurry()
        return self._noted

    def hurry(self) -> None:
        """See `Ledger`."""
        self._due.set()

    def forget(self, number: int) -> bool:
        """See `Ledger`."""
        # While the disk is full something must stay to be tried again, for that is how it is found to have room.
        may = not self._full or len(self._pending) > 1
        return may and self._pending.pop(number, None) is not None

    async def run(self) -> None:
        """Sync what is noted, until `close`; then the rest of it."""
        while not (self._closing.is_set() and not self._pending):
            if not self._closing.is_set():
                await self._due.wait()
                self._due.clear()
            if self._alarm is not None:
                self._alarm.cancel()
                self._alarm = None
            if not self._pending:
                continue
            noted, self._pending = self._pending, {}
            try:
                up_to = await self._write(noted)
            except NoRoom as error:
                if self._closing.is_set():
                    raise
                self._pending = noted | self._pending
                await self._wait_for_room(error)
                continue
            if self._full:
                self._full = False
                self.on_full(False)
            self.on_synced(up_to)

    async def close(self, running: "asyncio.Task[None]") -> None:
        """Let `running`, the task of `run`, finish its work."""
        self._closing.set()
        self._due.set()
        try:
            await running
        finally:
            self._thread.shutdown()
            os.close(self._fd)
            os.close(self._folder)
            self._fd = self._folder = -1

    async def _write(self, noted: dict[int, Record]) -> int:
        """Add it, or write everything anew, and say up to where; `noted` is all that is to be tried again after `NoRoom`."""
        loop, up_to = asyncio.get_running_loop(), self._noted
        batch = b"".join(frame(record, self._word) for record in noted.values())
        longer = self.size + len(batch)
        long = longer > max(self._rewrite_bytes, 3 * self._base) and loop.time() >= self._rewrite_at
        full: NoRoom | None = None
        if not (self._old or long):
            try:
                await loop.run_in_executor(self._thread, self._append, batch)
                return up_to
            except NoRoom as error:
                if longer < 2 * self.alive() or loop.time() < self._rewrite_at:
                    raise
                full = error
        # The snapshot holds what was noted up to here, so that none of it need be written, or may be as if it came after it.
        noted |= self._pending
        self._pending, up_to = {}, self._noted
        try:
            await loop.run_in_executor(self._thread, self._rewrite, list(self.snapshot()))
        except NoRoom:
            self._rewrite_at = loop.time() + _REWRITE_AGAIN_S
            if self._old or full:
                raise
            await loop.run_in_executor(self._thread, self._append, batch)
        return up_to

    async def _wait_for_room(self, error: OSError) -> None:
        if not self._full:
            log.error("%s: %s: nothing is confirmed until there is room", self.path, error)
            self._full = True
            self.on_full(True)
        self._due.set()  # the batch is still to be written
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._closing.wait(), _RETRY_S)

    def _within(self, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        at = loop.time() + seconds
        if self._alarm is not None:
            if self._alarm.when() <= at:
                return
            self._alarm.cancel()
        self._alarm = loop.call_at(at, self._due.set)

    def _append(self, batch: bytes) -> None:
        try:
            write_all(self._fd, batch)
        except NoRoom:
            os.ftruncate(self._fd, self.size)
            os.lseek(self._fd, self.size, os.SEEK_SET)
            raise
        self._sync(self._fd)
        self.size += len(batch)

    def _rewrite(self, records: list[Record]) -> None:
        self._spare.unlink(missing_ok=True)
        try:
            self._rewrite_beside(records)
        finally:
            self._set_aside()

    def _rewrite_beside(self, records: list[Record]) -> None:
        beside = self._new
        try:
            fd = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        except OSError as error:  # with every descriptor taken, it is for later as well
            raise NoRoom(*error.args) if error.errno in (errno.EMFILE, errno.ENFILE) else _told(error) from None
        size = 0
        try:
            for piece in itertools.chain((header(self._word),), (frame(record, self._word) for record in records)):
                write_all(fd, piece)
                size += len(piece)
            self._sync(fd)
            os.rename(beside, self.path)
            os.fsync(self._folder)
        except OSError:
            os.close(fd)
            beside.unlink(missing_ok=True)
            raise
        os.close(self._fd)
        self._fd = fd
        self._old = False
        self.size = self._base = size

    @property
    def _new(self) -> Path:
        return self.path.with_suffix(".new")

    @property
    def _spare(self) -> Path:
        return self.path.with_suffix(".spare")

    def _set_aside(self) -> None:
        """Room that nobody else gets, to write anew what is left when the disk is full."""
        with _whatever_comes("no room is set aside for a full disk"):
            fd = os.open(self._spare, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(fd, 0, _SPARE)
            finally:
                os.close(fd)

    def _sync(self, fd: int) -> None:
        started = time.perf_counter()
        os.fdatasync(fd)
        self.observe(time.perf_counter() - started)


def header(word: bytes) -> bytes:
    """How a file begins. Its word stands there twice: a damaged one would take everything along."""
    return MAGIC + word + word


def frame(record: Record, word: bytes) -> bytes:
    """A record as it stands in the file."""
    payload = encode(record)
    return word + _HEAD.pack(len(payload), zlib.crc32(payload)) + payload


def parse(
    untrusted: bytes | mmap.mmap, damaged: Callable[[int, int], None] = lambda start, end: None
) -> Iterator[tuple[int, Record]]:
    """The whole records, each with the offset after it; `damaged` is told of what was stepped over."""
    at, word = _beginning(untrusted)
    skipped: list[tuple[int, int]] = []
    while at:
        record, after = _one(untrusted, at, word)
        if record is None:
            following = untrusted.find(word, at + 1) if word else after
            if following < 0 or (not after and not word):
                return
            skipped.append((at, following))  # damage, if something good follows; else a torn tail
            at = following
            continue
        for place in skipped:
            damaged(*place)
        skipped.clear()
        yield after, record
        at = after


def _beginning(untrusted: bytes | mmap.mmap) -> tuple[int, bytes]:
    """Where the first record would be, 0 in what is no journal, and the word; an older journal has none."""
    magic = untrusted[: len(MAGIC)]
    if magic == WORDLESS:
        return len(MAGIC), b""
    if magic != MAGIC or len(untrusted) < _BEGIN:
        return 0, b""
    word, again = untrusted[len(MAGIC) : len(MAGIC) + _WORD], untrusted[len(MAGIC) + _WORD : _BEGIN]
    return _BEGIN, word if untrusted.find(word, _BEGIN) >= 0 else again


def _one(untrusted: bytes | mmap.mmap, at: int, word: bytes) -> tuple[Record | None, int]:
    """The record that begins there, if it is whole, and where it ends; 0 when it would be behind the end."""
    begin = at + len(word) + _HEAD.size
    if begin > len(untrusted):
        return None, 0
    size, checksum = _HEAD.unpack_from(untrusted, begin - _HEAD.size)
    if begin + size > len(untrusted) or untrusted[at : at + len(word)] != word:
        return None, 0
    payload = untrusted[begin : begin + size]
    try:
        return (decode(payload) if zlib.crc32(payload) == checksum else None), begin + size
    except msgspec.DecodeError:
        return None, begin + size


def write_all(fd: int, data: bytes) -> None:
    """write(2) until all of it is written; raises `NoRoom`, or OSError for what will not pass."""
    view = memoryview(data)
    try:
        while view:
            view = view[os.write(fd, view) :]
    except OSError as error:
        raise _told(error) from None


def _told(error: OSError) -> OSError:
    return NoRoom(*error.args) if error.errno in _NO_ROOM else error


@contextlib.contextmanager
def _whatever_comes(lack: str) -> Iterator[None]:
    """What we can do without."""
    try:
        yield
    except OSError as error:
        log.warning("%s: %s", lack, error)
