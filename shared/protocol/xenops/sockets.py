# SPDX-License-Identifier: Apache-2.0
"""How sockets are read, into room that is there already, and how Unix sockets of others are reached.

asyncio would ask for 256 KiB of fresh memory at each read and give nearly all of it back. The allocator maps and unmaps
that much anew each time, which costs ten times what the reading does; in a Xen control domain every such change of the
page tables is a call of the hypervisor.

The listen queue of xenstored and of QEMU's monitor holds one. When it is full connect(2) says EAGAIN, which asyncio takes
for a connection that will be made: it tells of one that is none. Nothing wakes who waits for room in a queue: it is asked
for again.
"""

import asyncio
import os
import socket
import threading

ROOM = 1 << 18  # several messages of 64 KiB: a quarter more of them than with room for less than one
_AGAIN_S = 0.01


class _Room(threading.local):
    """Each thread may have an event loop of its own, and no two of them may read into the same place."""

    def __init__(self) -> None:
        self.view = memoryview(bytearray(ROOM))


_room = _Room()


class Intake(asyncio.BufferedProtocol):
    """A protocol that is given bytes as `asyncio.Protocol` is."""

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        raise NotImplementedError

    def get_buffer(self, sizehint: int) -> memoryview:
        """See `asyncio.BufferedProtocol`; what is read is told at once, before anybody else reads."""
        return _room.view

    def buffer_updated(self, nbytes: int) -> None:
        """See `asyncio.BufferedProtocol`."""
        self.data_received(bytes(_room.view[:nbytes]))


async def connected(path: str | os.PathLike[str]) -> socket.socket:
    """A socket that is connected there and does not block. Raises `OSError`; how long it may wait, the caller says."""
    end = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        end.setblocking(False)
        while True:
            try:
                end.connect(os.fspath(path))
            except BlockingIOError:
                await asyncio.sleep(_AGAIN_S)
            else:
                return end
    except BaseException:
        end.close()
        raise
