# SPDX-License-Identifier: Apache-2.0
"""xenopsd's way to forkexecd."""

import asyncio

import pytest

from xenops import wire
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import Delivery, Message
from xenops.errors import Busy, NoSuchService
from xenops.types.process import Program
from xenopsd.forkexec import Forkexec


def test_programs_of_an_earlier_lifes_work_wait_for_the_bus() -> None:
    async def run() -> None:
        forkexec = Forkexec("h")
        bus = MemoryBus(MemorySwitch())
        await bus.connect()

        async def refuse(delivery: Delivery) -> Message:
            return Message(wire.encode_fault(Busy("forkexecd", 1)), correlation_id=delivery.message.correlation_id)

        await bus.serve("forkexec.h", refuse)
        early = asyncio.create_task(forkexec.run(Program(argv=["/bin/true"], timeout_s=5.0)))
        ended, _ = await asyncio.wait((early,), timeout=0.05)
        assert not ended
        forkexec.use(bus)
        with pytest.raises(Busy):  # now it was asked for
            await early
        await bus.close()

    asyncio.run(run())


def test_without_a_bus_the_programs_own_time_is_the_limit() -> None:
    async def run() -> None:
        with pytest.raises(NoSuchService, match=r"forkexec\.h"):
            await Forkexec("h").run(Program(argv=["/bin/true"], timeout_s=0.01))

    asyncio.run(run())
