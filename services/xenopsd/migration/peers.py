# SPDX-License-Identifier: Apache-2.0
"""Other xenopsds, as one asks them over the bus; from before there is a bus, and while one of them is away."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from xenops.bus.port import Bus
from xenops.errors import BadRequest, Busy, FailedToContactRemoteService, MigrationFailed, NoSuchService, ServiceFault
from xenops.interfaces.xenops import Migration
from xenops.rpc import stub

log = logging.getLogger(__name__)
T = TypeVar("T")

CALL_S = 5.0  # after which an answer is asked for again
_PAUSE_S, _MOST_PAUSE_S = 0.05, 1.0


class Peers:
    """Whoever serves a queue."""

    def __init__(self) -> None:
        self._bus: asyncio.Future[Bus] = asyncio.get_running_loop().create_future()
        self._waking: dict[str, asyncio.Event] = {}

    def use(self, bus: Bus) -> None:
        """This is the bus from now on."""
        self._bus.set_result(bus)

    async def once(self, queue: str, ask: Callable[[Migration], Awaitable[T]]) -> T:
        """Ask one time. Raises what the peer does, and `ServiceFault` when it is not reached."""
        try:
            async with asyncio.timeout(CALL_S):
                bus = await asyncio.shield(self._bus)
        except TimeoutError:
            raise NoSuchService(queue) from None
        try:
            return await ask(stub(Migration, bus, queue, timeout_s=CALL_S))
        except BadRequest as fault:
            if fault.path.startswith("reply"):  # what came back is no answer: as good as none
                log.warning("%s answers what is no answer: %s", queue, fault)
                raise FailedToContactRemoteService(queue) from None
            raise

    def wake(self, vm: str) -> None:
        """There is a reason to believe that the peer answers now: what it is being asked about that machine is asked afresh."""
        if vm in self._waking:
            self._waking[vm].set()

    async def afresh(self, vm: str, queue: str, ask: Callable[[Migration], Awaitable[T]], *, patience_s: float) -> T:
        """As `patiently`, and again from the beginning at each `wake`: an answer that a dead process owes never comes."""
        waking = self._waking[vm] = asyncio.Event()
        try:
            while True:
                asking = asyncio.ensure_future(self.patiently(vm, queue, ask, patience_s=patience_s))
                woken = asyncio.ensure_future(waking.wait())
                try:
                    await asyncio.wait((asking, woken), return_when=asyncio.FIRST_COMPLETED)
                    if asking.done():
                        return asking.result()
                finally:
                    asking.cancel()
                    woken.cancel()
                    await asyncio.gather(asking, woken, return_exceptions=True)
                waking.clear()
        finally:
            self._waking.pop(vm, None)

    async def patiently(self, vm: str, queue: str, ask: Callable[[Migration], Awaitable[T]], *, patience_s: float) -> T:
        """Ask until there is an answer. Raises what the peer does, and `MigrationFailed` when patience has an end."""
        loop = asyncio.get_running_loop()
        until, pause_s = loop.time() + patience_s, _PAUSE_S
        while True:
            try:
                return await self.once(queue, ask)
            except (ServiceFault, Busy) as fault:
                if loop.time() + pause_s >= until:
                    raise MigrationFailed(vm, f"{queue} does not answer, or not yet: {fault}") from None
                log.debug("%s is asked again: %s", queue, fault)
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _MOST_PAUSE_S)
