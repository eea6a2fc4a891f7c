# SPDX-License-Identifier: Apache-2.0
"""A Unix socket whose listener lets in one at a time."""

import asyncio
import socket
from pathlib import Path

import pytest

from xenops.sockets import connected


def test_who_comes_to_a_full_queue_waits_and_is_let_in(tmp_path: Path) -> None:
    path = tmp_path / "socket"

    async def main(listener: socket.socket) -> None:
        listener.bind(str(path))
        listener.listen(0)  # Linux holds one beyond that
        first = await connected(path)
        waiting = asyncio.create_task(connected(path))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.shield(waiting), 0.05)
        let_in = [listener.accept()[0]]
        second = await waiting
        let_in.append(listener.accept()[0])
        second.sendall(b"I am second")
        assert let_in[1].recv(100) == b"I am second"
        for end in (first, second, *let_in):
            end.close()

    with socket.socket(socket.AF_UNIX) as listener:
        asyncio.run(main(listener))


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        asyncio.run(connected(tmp_path / "socket"))
