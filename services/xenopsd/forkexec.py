# SPDX-License-Identifier: Apache-2.0
"""Has forkexecd run programs: hooks, hotplug scripts, boot loaders, device models. xenopsd starts none of them itself."""

import asyncio

from xenops.bus.port import Bus
from xenops.errors import NoSuchService
from xenops.interfaces.forkexec import FORKEXEC
from xenops.rpc import stub
from xenops.service.log import work
from xenops.types.process import Ended, Program


class Forkexec:
    """The host's forkexecd, from before there is a bus to reach it."""

    def __init__(self, host: str) -> None:
        self._queue = f"forkexec.{host}"
        self._bus: asyncio.Future[Bus] = asyncio.get_running_loop().create_future()

    def use(self, bus: Bus) -> None:
        """This is the bus from now on."""
        self._bus.set_result(bus)

    async def run(self, program: Program) -> Ended:
        """Run a program to its end. Raises `ProgramFailed`, `NoSuchService`."""
        try:
            async with asyncio.timeout(program.timeout_s):
                bus = await asyncio.shield(self._bus)  # work of an earlier life begins before there is a switch
        except TimeoutError:
            raise NoSuchService(self._queue) from None
        return await stub(FORKEXEC, bus, self._queue, timeout_s=program.timeout_s + 10.0, debug_info=work.get()).run(
            program
        )
