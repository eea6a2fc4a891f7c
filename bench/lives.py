# SPDX-License-Identifier: Apache-2.0
"""Lives of machines: add, start, shutdown, remove, over and over, by some callers at once, durability on.

Usage: lives.py URL QUEUE CALLERS SECONDS. Prints whole lives per second.
"""

import asyncio
import sys
import time
import uuid

from xenops.client import Xenops, connect
from xenops.types.vm import Direct, Pv, Vm


async def live(xenops: Xenops) -> None:
    """One life."""
    vm = Vm(id=str(uuid.uuid4()), name="bench", ty=Pv(boot=Direct(kernel="/boot/vmlinuz")))
    await xenops.VM.add(vm)
    await xenops.finished(await xenops.VM.start(vm.id))
    await xenops.finished(await xenops.VM.shutdown(vm.id))
    await xenops.VM.remove(vm.id)


async def caller(url: str, queue: str, until: float) -> int:
    """Lives lived by one caller, on a connection of its own."""
    lives = 0
    async with connect(url=url, queue=queue) as xenops:
        while time.perf_counter() < until:
            await live(xenops)
            lives += 1
    return lives


async def main(url: str, queue: str, callers: int, seconds: float) -> float:
    """Lives per second."""
    began = time.perf_counter()
    lives = await asyncio.gather(*(caller(url, queue, began + seconds) for _ in range(callers)))
    return sum(lives) / (time.perf_counter() - began)


if __name__ == "__main__":
    print(asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))))
