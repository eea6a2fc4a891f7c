# SPDX-License-Identifier: Apache-2.0
"""Two whole xenopsds in this process, on two simulators and one memory bus, and a client of each.

Either can be killed (its files are left as they are, nothing is undone) and started again.
"""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

from prometheus_client import CollectorRegistry

from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.client import Xenops
from xenops.errors import DoesNotExist, Fault, Migrated
from xenops.types.vm import PowerState
from xenopsd.config import Settings, XenopsdSettings
from xenopsd.main import Daemon

QUICK = {"migration_stall_timeout": 2.0, "migration_patience": 3.0}


class Meddler(Protocol):
    """Who stands between a host and its bus."""

    def between(self, host: "Host", bus: MemoryBus) -> None:
        """Every call that this host makes goes through us."""


class Host:
    """One of them."""

    def __init__(self, name: str, path: Path, switch: MemorySwitch, **settings: Any) -> None:
        self.name, self._path, self._switch, self._settings = name, path, switch, {**QUICK, **settings}
        self.queue = f"xenops.{name}.simulator"
        self.daemon: Daemon
        self._ours: MemoryBus
        self._background: list[asyncio.Task[None]] = []
        self._dead: list[tuple[Daemon, MemoryBus, list[asyncio.Task[None]]]] = []
        self._client = MemoryBus(switch)
        self.meddler: Meddler | None = None
        self.xenops = Xenops(self._client, self.queue, timeout_s=10.0)

    async def start(self) -> None:
        """Begin a life."""
        await self._client.connect()
        chosen: Settings = XenopsdSettings(
            host=self.name, state_dir=self._path, hooks_dir=self._path / "hooks", **self._settings
        )
        self.daemon = Daemon(chosen, CollectorRegistry())
        self._ours = MemoryBus(self._switch)
        if self.meddler is not None:
            self.meddler.between(self, self._ours)
        await self._ours.connect()
        self.daemon.use(self._ours)
        await self.daemon.begin()
        self._background = [
            asyncio.create_task(self.daemon.announce.publish(self._ours, self.daemon.describe_event)),
            asyncio.create_task(self.daemon.look_after_migrations()),
        ]
        self._serving = await self._ours.serve(self.queue, self.daemon.dispatcher(asyncio.Event()).answer)

    async def stop(self) -> None:
        """End it in order."""
        await self._serving.cancel()
        await self._quiet()
        await self.daemon.end()
        await self._ours.close()

    async def _quiet(self) -> None:
        for each in self._background:
            each.cancel()
        await asyncio.gather(*self._background, return_exceptions=True)

    async def crash(self, meanwhile: Callable[[Path], None] | None = None) -> None:
        """Die without warning, and begin another life on what was on the disk at that moment, whatever happens to that `meanwhile`.

        The old life is cut off from the bus and from the network; what it still does, it does to files that nobody reads again.
        """
        old, self._path = self._path, self._path.with_name(f"{self._path.name}x")
        self._ours.disconnect()
        shutil.copytree(
            old, self._path, ignore=shutil.ignore_patterns("*-shm", "lock", "vt")
        )  # at once: nothing runs meanwhile
        if meanwhile is not None:
            meanwhile(self._path)
        self._dead.append((self.daemon, self._ours, self._background))
        self.daemon.control.backend.world.changed = lambda kind, id: None  # type: ignore[attr-defined]
        await self.start()

    async def _bury(self) -> None:
        for daemon, bus, background in self._dead:
            for each in background:
                each.cancel()
            await asyncio.gather(*background, return_exceptions=True)
            await daemon.workers.stop(0.0)  # what the dead were at is waited for by nobody
            await daemon.end()
            await bus.close()

    async def close(self) -> None:
        """No more client either."""
        await self.stop()
        await self._bury()
        await self._client.close()

    async def power_state(self, vm: str) -> PowerState | None:
        """What the machine is here, or that it is not."""
        try:
            stat = await self.xenops.VM.stat(vm)
        except (DoesNotExist, Migrated):
            return None
        return stat.state.power_state

    async def wait_for(self, vm: str, *allowed: PowerState | None) -> PowerState | None:
        """Wait until it is one of these."""
        token = await self.xenops.UPDATES.last_id()
        while (state := await self.power_state(vm)) not in allowed:
            token = (await self.xenops.UPDATES.get(token, 0.5)).token
        return state

    async def is_whole(self, vm: str) -> bool:
        """Stop it and start it again, which shows that it is all there; it ends Running."""
        try:
            await self.xenops.finished(await self.xenops.VM.shutdown(vm))
            await self.xenops.finished(await self.xenops.VM.start(vm, paused=False))
        except Fault:
            return False
        return True


@asynccontextmanager
async def two(path: Path, **settings: Any) -> AsyncIterator[tuple[Host, Host]]:
    """Both at work."""
    switch = MemorySwitch()
    hosts = [Host(name, path / name, switch, **settings) for name in ("here", "there")]
    for host in hosts:
        await host.start()
    try:
        yield hosts[0], hosts[1]
    finally:
        for host in hosts:
            await host.close()
