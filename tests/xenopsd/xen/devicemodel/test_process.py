# SPDX-License-Identifier: Apache-2.0
"""Telling our QEMUs from all other processes, and what they say from what would fill a disk."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from xenopsd.backends.xen.devicemodel.places import Places
from xenopsd.backends.xen.devicemodel.process import Process
from xenopsd.backends.xen.devicemodel.words import KEPT, Words, printable

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(600)"


@asynccontextmanager
async def sleeping(*words: str, code: str = STUBBORN) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process with that command line."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, *words, stdout=asyncio.subprocess.PIPE)
    try:
        assert process.stdout is not None
        await process.stdout.readline()
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


def ours(places: Places) -> list[str]:
    return ["-xen-domid", str(places.domid), "-pidfile", str(places.pid)]


@pytest.fixture
def places(tmp_path: Path) -> Places:
    found = Places.of(tmp_path, 7)
    found.folder.mkdir(parents=True)
    return found


def test_one_of_ours_is_found_and_put_down(places: Places) -> None:
    async def scenario() -> None:
        async with sleeping(*ours(places)) as child:
            assert Process.find(places) is None
            assert [found.pid for found in Process.search(places)] == [child.pid]
            places.pid.write_text(f"{child.pid}\n")
            found = Process.find(places)
            assert found is not None
            assert found.emulates
            assert not await found.ends(0.05)
            assert await found.put_down(0.2, 10)
            assert await child.wait() == -signal.SIGKILL
            assert Process.find(places) is None
            found.signal(signal.SIGTERM)  # nobody's any more
            found.close()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "others",
    [
        [],
        ["-xen-domid", "77", "-pidfile", "{pid}"],
        ["-xen-domid", "7"],
        ["-xen-domid", "7", "-pidfile", "/elsewhere/pid"],
        ["-pidfile", "{pid}", "7", "-xen-domid"],
        ["-name", "-xen-domid 7 -pidfile {pid}"],
    ],
)
def test_others_are_left_alone_whatever_the_pid_file_says(places: Places, others: list[str]) -> None:
    async def scenario() -> None:
        async with sleeping(*(word.format(pid=places.pid) for word in others)) as child:
            places.pid.write_text(str(child.pid))
            assert Process.find(places) is None
            assert list(Process.search(places)) == []

    asyncio.run(scenario())


@pytest.mark.parametrize("untrusted", ["", "x", "-1", "0", "9" * 40, "१२"])
def test_a_pid_file_may_hold_anything(places: Places, untrusted: str) -> None:
    async def scenario() -> None:
        places.pid.write_text(untrusted)
        assert Process.find(places) is None

    asyncio.run(scenario())


def test_the_last_words_are_kept_and_no_more(places: Places) -> None:
    async def scenario() -> None:
        words = Words.made(places.words)
        assert words.last == ""
        with places.words.open("wb", buffering=0) as pipe:
            for _ in range(50):
                await asyncio.to_thread(pipe.write, b"guest says \x1b[2J\n" * 500)
            await asyncio.to_thread(pipe.write, b"qemu: the end\n")
        assert words.last.endswith("qemu: the end")
        assert "\x1b" not in words.last
        assert len(words.last) <= KEPT
        words.close()
        words.close()
        again = Words.heard(places.words)
        assert again.last == ""
        again.close()

    asyncio.run(scenario())


def test_a_complaint_is_heard_once_and_whole(places: Places) -> None:
    async def scenario() -> None:
        words = Words.made(places.words)
        with places.words.open("wb", buffering=0) as pipe:
            hearing = asyncio.create_task(words.about(b"device '51712'"))
            for part in (b"qemu: all is well\nqemu: failed to create 'qdisk' device '517", b"12': no qcow2\nqemu: on"):
                pipe.write(part)
                await asyncio.sleep(0)
            assert await hearing == "qemu: failed to create 'qdisk' device '51712': no qcow2"
            again = asyncio.create_task(words.about(b"device '51712'"))
            await asyncio.sleep(0)
            assert not again.done()
            again.cancel()
            assert words.last == "qemu: all is well; qemu: on"
        words.close()

    asyncio.run(scenario())


def test_a_pipe_that_was_taken_away_is_made_anew(places: Places) -> None:
    async def scenario() -> None:
        words = Words.heard(places.words)
        assert places.words.is_fifo()
        words.close()

    asyncio.run(scenario())


def test_words_are_printable() -> None:
    assert printable(b"\xff\x00a\n\nb\r\n" + b"c" * 1000) == f"\ufffd?a; ; b; {'c' * 300}"
