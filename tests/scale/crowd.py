# SPDX-License-Identifier: Apache-2.0
"""A host full of machines: registered and started by many callers at once."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable

from tests.scale.sizes import REGISTERED, RUNNING
from tests.xenopsd.machines import plain_vm
from xenops.client import Xenops

CALLERS = 16


def name(n: int) -> str:
    return f"crowd-{n}"


async def fill(xenops: Xenops, registered: int = REGISTERED, running: int = RUNNING) -> None:
    """That many machines, the first of which run."""

    async def add(n: int) -> None:
        await xenops.VM.add(plain_vm(name(n), name=name(n)))

    async def start(n: int) -> None:
        await xenops.finished(await xenops.VM.start(name(n), paused=False))

    await by_many(add, range(registered))
    await by_many(start, range(running))


async def by_many(work: Callable[[int], Awaitable[None]], numbers: Iterable[int]) -> None:
    """Do it for each number, some at once."""
    left = iter(numbers)

    async def caller() -> None:
        for n in left:
            await work(n)

    async with asyncio.TaskGroup() as callers:
        for _ in range(CALLERS):
            callers.create_task(caller())
