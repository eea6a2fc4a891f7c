# SPDX-License-Identifier: Apache-2.0
"""vncproxy's end of a real guest's console: the terminal that xenconsoled gives it."""

import asyncio
import time
from pathlib import Path

from tests.xen import guests
from tests.xen.acceptance import xl
from vncproxy.ends import connect
from xenops.types.console import Console, ConsoleProtocol


def terminal(domid: int) -> str:
    """xenconsoled writes it a moment after the domain was introduced."""
    deadline = time.monotonic() + 30
    while not (path := xl.store("read", f"/local/domain/{domid}/console/tty")):
        assert time.monotonic() < deadline, "xenconsoled gave it no terminal"
        time.sleep(0.05)
    return path


def test_a_guest_is_read_and_obeys(tmp_path: Path) -> None:
    path = xl.config(tmp_path, "terminal", type="pv", kernel=guests.GRUB_PV, memory=guests.GRUB_MEMORY_MIB)

    async def talk(domid: int) -> None:
        end = await connect(Console(protocol=ConsoleProtocol.VT100, path=terminal(domid)))
        heard = b""
        try:
            async with asyncio.timeout(60):
                while guests.GRUB_PROMPT.encode() not in heard:
                    heard += await end.receive()
                await end.send(b"echo not-$unset-echoed\r")
                while b"not--echoed" not in heard:
                    heard += await end.receive()
                await end.send(b"halt\r")
        finally:
            end.close()

    with xl.domain(path) as domid:
        asyncio.run(talk(domid))
        deadline = time.monotonic() + 30
        while "s" not in xl.run("list", "terminal").splitlines()[1].split()[4]:
            assert time.monotonic() < deadline, "it did not halt"
            time.sleep(0.2)
