# SPDX-License-Identifier: Apache-2.0
"""A guest's console, read and written through the terminal that xenconsoled (or a device model) gives it."""

import os
import select
import subprocess
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.xen import guests
from tests.xen.acceptance import xl


class Console:
    """The console's conversation since it was opened."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def wait(self, marker: str, *, timeout_s: float = 120) -> str:
        """What came up to and with the marker; the rest stays for the next wait."""
        deadline = time.monotonic() + timeout_s
        while marker not in self.text:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._descriptor], [], [], left)[0]:
                raise AssertionError(f"no {marker!r} on the console within {timeout_s} s, but: {self.text[-1000:]!r}")
            self.text += os.read(self._descriptor, 65536).decode(errors="replace")
        end = self.text.index(marker) + len(marker)
        said, self.text = self.text[:end], self.text[end:]
        return said

    def send(self, data: bytes) -> None:
        os.write(self._descriptor, data)

    def run(self, command: str, *, timeout_s: float = 60) -> str:
        """A shell command in the Linux guest: its output; a status other than 0 is an AssertionError."""
        self.send(command.encode() + b"\n")
        output = self.wait(guests.LINUX_DONE, timeout_s=timeout_s).removesuffix(guests.LINUX_DONE)
        status = self.wait("\n").strip()
        assert status == "0", f"{command} ended with {status}: {output}"
        return output.strip("\r\n").replace("\r\n", "\n")


@contextmanager
def attached(domid: int, node: str = "console/tty", *, alone: bool = False, timeout_s: float = 30) -> Iterator[Console]:
    """The console of a domain; `node` says where xenstore has its terminal (serial/0/tty for an HVM's serial port).

    `alone` waits until nobody else reads there: who looked before, as vncproxy, hears the answer as long as it has not let go.
    """
    terminal = _terminal(f"/local/domain/{domid}/{node}", timeout_s)
    if alone:
        _until_alone(terminal, timeout_s)
    descriptor = os.open(terminal, os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(descriptor, termios.TCSANOW)  # what has been said already stays
        yield Console(descriptor)
    finally:
        os.close(descriptor)


def by_xl(*words: str, send: bytes, until: str, timeout_s: float = 60) -> str:
    """What `xl console` with these words shows after that was typed there; it is left as a person leaves it."""
    ours, theirs = os.openpty()
    with subprocess.Popen(["xl", "console", *words], stdin=theirs, stdout=theirs, start_new_session=True) as process:
        os.close(theirs)
        try:
            tty.setraw(ours, termios.TCSANOW)
            console = Console(ours)
            console.send(send)
            heard = console.wait(until, timeout_s=timeout_s)
            console.send(b"\x1d")  # Ctrl-]
            process.wait(30)
            return heard
        finally:
            process.kill()
            os.close(ours)


def _terminal(path: str, timeout_s: float) -> str:
    """xenconsoled writes it a moment after the domain was introduced."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            if found := xl.store("read", path):
                return found
        except AssertionError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _until_alone(terminal: str, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while readers := _readers(terminal):
        if time.monotonic() > deadline:
            raise AssertionError(f"{terminal} is still read by {', '.join(readers)}")
        time.sleep(0.1)


def _readers(terminal: str) -> list[str]:
    """Who has it open, but the one who gives it to the guest."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(end) == terminal for end in (process / "fd").iterdir()):
                found.append((process / "comm").read_text().strip())
        except OSError:
            continue  # it has ended, or closed that one
    return [name for name in found if not name.startswith(("xenconsoled", "qemu"))]
