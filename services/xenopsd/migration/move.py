# SPDX-License-Identifier: Apache-2.0
"""A migration within this xenopsd: the way of the memory from one domain to the other, and what there is to tell at its end.

There is no socket, and never much in between.
"""

import asyncio
import time
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any

from xenops.errors import Fault, MigrationFailed

_PIECES = 8  # that may wait to be taken


class Pipe:
    """Both its ends: an `Outlet` and an `Inlet`. Who stops at one end ends it for the other."""

    def __init__(self, vm: str) -> None:
        self._vm = vm
        self._pieces: asyncio.Queue[bytes | None] = asyncio.Queue(_PIECES)
        self._broken: asyncio.Future[Fault] = asyncio.get_running_loop().create_future()
        self.bytes_sent = 0

    async def send(self, data: bytes) -> None:
        """See `Outlet`."""
        await self._unless_broken(self._pieces.put(data))
        self.bytes_sent += len(data)

    async def finish(self) -> None:
        """All of it was sent."""
        await self._unless_broken(self._pieces.put(None))

    async def receive(self) -> bytes | None:
        """See `Inlet`."""
        piece: bytes | None = await self._unless_broken(self._pieces.get())
        return piece

    def break_off(self, why: Fault | None = None) -> None:
        """Nothing more goes through; the other end is told why. Idempotent."""
        if not self._broken.done():
            self._broken.set_result(why or MigrationFailed(self._vm, "the other end of its memory's way stopped"))

    async def _unless_broken(self, work: Coroutine[None, None, bytes | None]) -> bytes | None:
        working = asyncio.ensure_future(work)
        try:
            await asyncio.wait((working, self._broken), return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise self._broken.result()
            return working.result()
        finally:
            working.cancel()


@dataclass
class Move:
    """What there is to tell of it at its end."""

    queue: str
    stopped_at: float = 0.0
    rounds: int = 0
    bytes_sent: int = 0

    def stops(self) -> None:
        """The guest is asked to suspend: it stands still from here."""
        self.stopped_at = time.monotonic()

    def result(self, *, running: bool) -> dict[str, Any]:
        """What the task answers, the guest going on from now."""
        return {
            "destination": self.queue,
            "running": running,
            "downtime_s": round(time.monotonic() - self.stopped_at, 6),
            "rounds": self.rounds,
            "bytes": self.bytes_sent,
        }
