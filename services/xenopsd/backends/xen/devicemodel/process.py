# SPDX-License-Identifier: Apache-2.0
"""QEMUs as processes: found again, told from all others, signalled, and seen to end.

They are nobody's children: forkexecd started them, they went into the background. A process is one of ours only when its
command line has our domain and our pid file; a pidfd, opened before it is looked at, never means another one.
"""

import asyncio
import contextlib
import os
import select
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from xenopsd.backends.xen.devicemodel.places import Places

_PROC = Path("/proc")


class Process:
    """A running process, by pidfd."""

    def __init__(self, pid: int, pidfd: int, words: Sequence[str]) -> None:
        self.pid, self._pidfd = pid, pidfd
        self.emulates = "xenpv" not in words
        self.ended = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._on_end)

    @staticmethod
    def find(places: Places) -> "Process | None":
        """The one that has written its number into its pid file."""
        try:
            untrusted = places.pid.read_text()
        except OSError:
            return None
        number = untrusted.strip()
        return _opened(int(number), places) if number.isascii() and number.isdigit() and len(number) < 10 else None

    @staticmethod
    def search(places: Places) -> "Iterator[Process]":
        """All there are, also those that have not come as far as writing their pid files."""
        for folder in _PROC.iterdir():
            if folder.name.isdigit() and (process := _opened(int(folder.name), places)) is not None:
                yield process

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it still runs."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    async def put_down(self, gently_s: float, finally_s: float) -> bool:
        """SIGTERM, then SIGKILL; whether it has ended."""
        for number, within_s in ((signal.SIGTERM, gently_s), (signal.SIGKILL, finally_s)):
            self.signal(number)
            if await self.ends(within_s):
                return True
        return False

    async def ends(self, within_s: float) -> bool:
        """Whether it ends in that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self.ended.wait()
        return self.ended.is_set()

    def close(self) -> None:
        """Watch it no more. Idempotent."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _on_end(self) -> None:
        self.close()
        self.ended.set()


def _opened(pid: int, places: Places) -> Process | None:
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return None  # there is none, or it is only a thread
    try:
        words = (_PROC / str(pid) / "cmdline").read_bytes().decode("utf-8", "surrogateescape").split("\0")
        ours = _follows(words, "-xen-domid", str(places.domid)) and _follows(words, "-pidfile", str(places.pid))
        if ours and not select.select([pidfd], [], [], 0)[0]:
            process = Process(pid, pidfd, words)
            pidfd = -1
            return process
        return None
    except OSError:
        return None
    finally:
        if pidfd >= 0:
            os.close(pidfd)


def _follows(words: Sequence[str], option: str, value: str) -> bool:
    return (option, value) in pairwise(words)
