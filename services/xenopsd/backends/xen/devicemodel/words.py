# SPDX-License-Identifier: Apache-2.0
"""What a QEMU complains of, through a pipe: the last of it is kept, and never more, however much a guest makes it say.

A file would grow with every complaint that a guest provokes. While nobody listens the pipe is closed, and what is said is lost.
"""

import asyncio
import os
from pathlib import Path

KEPT = 4096
_CHUNK = 1 << 14


class Words:
    """The listening end."""

    def __init__(self, path: Path) -> None:
        self._kept = b""
        self._more = asyncio.Event()
        # For writing, too: it stays open when the other side ends, and QEMU need not wait until somebody listens.
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._on_words)

    @staticmethod
    def made(path: Path) -> "Words":
        """A new pipe."""
        os.mkfifo(path, 0o600)
        return Words(path)

    @staticmethod
    def heard(path: Path) -> "Words":
        """The pipe of a QEMU that runs; a new one, to which nobody speaks, when somebody has taken it away."""
        try:
            return Words(path)
        except FileNotFoundError:
            return Words.made(path)

    @property
    def last(self) -> str:
        """What was said last, untrusted."""
        if self._fd >= 0:
            self._on_words()
        return printable(self._kept)

    async def about(self, text: bytes) -> str:
        """Wait for a line with that text in it; it is taken out, and what was said there is untrusted."""
        while True:
            lines = self._kept.splitlines(keepends=True)
            for line in lines:
                if text in line and line.endswith(b"\n"):
                    self._kept = b"".join(other for other in lines if other is not line)
                    return printable(line)
            self._more.clear()
            await self._more.wait()

    def close(self) -> None:
        """Listen no more. Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1

    def _on_words(self) -> None:
        try:
            self._kept = (self._kept + os.read(self._fd, _CHUNK))[-KEPT:]
            self._more.set()
        except BlockingIOError:
            return


def printable(untrusted: bytes, lines: int = 6) -> str:
    """The last lines, with nothing in them that could disturb a terminal or a log."""
    text = untrusted.decode("utf-8", "replace").strip()
    told = ["".join(c if c.isprintable() else "?" for c in line)[:300] for line in text.splitlines()[-lines:]]
    return "; ".join(told)
