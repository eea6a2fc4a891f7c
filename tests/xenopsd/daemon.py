# SPDX-License-Identifier: Apache-2.0
"""A whole xenopsd in this process, on the simulator and the memory bus, and a client of it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry

from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.client import Xenops
from xenops.types.vm import PowerState, Vm
from xenopsd.config import Settings, XenopsdSettings
from xenopsd.main import Daemon


@asynccontextmanager
async def running(path: Path, **settings: Any) -> AsyncIterator[tuple[Daemon, Xenops]]:
    """The daemon serving, with its state below `path`, and a client; both are gone afterwards, the state is not."""
    chosen: Settings = XenopsdSettings(host="h", state_dir=path, hooks_dir=path / "hooks", **settings)
    daemon = Daemon(chosen, CollectorRegistry())
    switch = MemorySwitch()
    ours, theirs = MemoryBus(switch), MemoryBus(switch)
    await ours.connect()
    await theirs.connect()
    daemon.use(ours)
    await daemon.begin()
    publishing = asyncio.create_task(daemon.announce.publish(ours, daemon.describe_event))
    serving = await ours.serve(daemon.info.queue, daemon.dispatcher(asyncio.Event()).answer)
    try:
        yield daemon, Xenops(theirs, daemon.info.queue, timeout_s=10.0)
    finally:
        await serving.cancel()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await theirs.close()
        await daemon.end()
        await ours.close()


def with_daemon(path: Path, work: Callable[[Daemon, Xenops], Awaitable[None]], **settings: Any) -> None:
    """Run a test against a daemon of its own."""

    async def run() -> None:
        async with asyncio.timeout(30), running(path, **settings) as (daemon, xenops):
            await work(daemon, xenops)

    asyncio.run(run())


async def power_state(xenops: Xenops, vm: str) -> PowerState:
    return (await xenops.VM.stat(vm)).state.power_state


async def started(xenops: Xenops, vm: Vm, *, paused: bool = False) -> None:
    """Register a machine and start it."""
    await xenops.VM.add(vm)
    await xenops.finished(await xenops.VM.start(vm.id, paused=paused))


async def until(xenops: Xenops, condition: Callable[[], Awaitable[bool]]) -> None:
    """Wait for a condition, looking again whenever something changed."""
    token = await xenops.UPDATES.last_id()
    while not await condition():
        token = (await xenops.UPDATES.get(token, 5.0)).token
