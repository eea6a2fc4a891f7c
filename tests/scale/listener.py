# SPDX-License-Identifier: Apache-2.0
"""A subscriber that can be stopped: it says "ready", then the number of events that it got, once it got one that says "last".

Usage: listener.py URL PATTERN
"""

import asyncio
import sys

from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Message


async def main(url: str, pattern: str) -> None:
    bus, count, last = AmqpBus(url), 0, asyncio.Event()
    await bus.connect(30.0)

    def hear(message: Message) -> None:
        nonlocal count
        count += 1
        if message.body.startswith(b"last"):
            last.set()

    await bus.subscribe([pattern], hear)
    print("ready", flush=True)
    await last.wait()
    print(count, flush=True)
    await bus.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2]))
