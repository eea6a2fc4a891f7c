# SPDX-License-Identifier: Apache-2.0
"""How our sockets are read: into room that is there already.

asyncio would ask for 256 KiB of fresh memory at each read and give nearly all of it back. The allocator maps and unmaps
that much anew each time, which costs ten times what the reading does; in a Xen control domain every such change of the
page tables is a call of the hypervisor.
"""

import asyncio
import threading

ROOM = 1 << 16


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
