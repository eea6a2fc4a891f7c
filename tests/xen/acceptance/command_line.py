# SPDX-License-Identifier: Apache-2.0
"""xenops-cli without the seconds that its interpreter takes to start on an emulated host.

A process that has loaded the program forks for each command: the same program in a process of its own, with words in,
output and status out.
"""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from xenops_cli import run as program
from xenops_cli.bus import connected
from xenops_cli.commands import commands

_ORDER = 1 << 16


@dataclass(frozen=True)
class Said:
    """What a command printed, and how it ended."""

    status: int
    out: str
    err: str


class CommandLine:
    """The loaded program; commands may run side by side."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._count = folder, 0
        self._orders, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", __name__, str(theirs.fileno())]
            self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL)

    async def run(self, *words: str, where: Path, within_s: float = 240) -> Said:
        """One command. Raises TimeoutError when it has not ended by then, and kills it."""
        self._count += 1
        out, err = (self._folder / f"command-{self._count}.{kind}" for kind in ("out", "err"))
        ours, theirs = socket.socketpair()
        with theirs:
            order = json.dumps({"words": words, "where": str(where), "out": str(out), "err": str(err)}).encode()
            socket.send_fds(self._orders, [order], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours)
        pid = int(await reader.readline())
        try:
            async with asyncio.timeout(within_s):
                status = int(await reader.readline() or -1)
        except BaseException:
            os.kill(pid, signal.SIGKILL)
            raise
        finally:
            writer.close()
        said = Said(status, out.read_text(errors="replace"), err.read_text(errors="replace"))
        out.unlink()
        err.unlink()
        return said

    def close(self) -> None:
        """End it, once its commands have ended."""
        self._orders.close()
        self._process.wait(60)


def serve(orders: socket.socket) -> None:
    """Fork for each order, until nobody gives any more."""
    commands()  # the program reads its families when they are asked for, and an event loop when a console is
    import_module("xenops_cli.console.attach")
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    while True:
        order, descriptors, _, _ = socket.recv_fds(orders, _ORDER, 1)
        if not order:
            return
        with socket.socket(fileno=descriptors[0]) as answer:
            if os.fork() == 0:
                orders.close()
                _obey(answer, **json.loads(order))


def _obey(answer: socket.socket, words: list[str], where: str, out: str, err: str) -> None:
    answer.send(f"{os.getpid()}\n".encode())
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.environ["XENOPS_WHERE"] = where
    for path, stream in (("/dev/null", 0), (out, 1), (err, 2)):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT, 0o600), stream)
    status = -1
    try:
        status = program.run(words, connected)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        answer.send(f"{status}\n".encode())
        os._exit(0)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
