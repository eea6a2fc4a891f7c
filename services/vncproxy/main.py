# SPDX-License-Identifier: Apache-2.0
"""The process: reads its settings, comes onto the bus, serves until it is told to stop, and ends every session."""

import asyncio
import logging
import os
import sys
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry

from vncproxy.api import Watch, dispatcher
from vncproxy.config import VncproxySettings
from vncproxy.metrics import Metrics
from vncproxy.relay import Relay
from xenops.bus.port import Bus
from xenops.events import Change, pattern
from xenops.service.bus import alone, announce, connected, describe
from xenops.service.log import configure
from xenops.service.process import notify_ready, run
from xenops.service.settings import load

log = logging.getLogger(__name__)
PROGRAM = "vncproxy"


def main() -> int:
    """The command `vncproxy`."""
    settings = load(VncproxySettings, program=PROGRAM, argv=sys.argv[1:], environ=os.environ)
    configure(PROGRAM, settings.log_level)
    return run(partial(_main, settings))


async def _main(settings: VncproxySettings, stop: asyncio.Event) -> int:
    bus = await connected(settings, PROGRAM, stop)
    if bus is None:
        return 0
    try:
        await serve(bus, settings, stop)
    finally:
        await bus.close()
    return 0


async def serve(
    bus: Bus, settings: VncproxySettings, stop: asyncio.Event, *, registry: CollectorRegistry = REGISTRY
) -> None:
    """Follow xenopsd's machines and answer requests until `stop`."""
    info = describe(PROGRAM, settings, instance=PROGRAM, queue=f"console.{settings.host}", features=["list", "open"])
    metrics = Metrics(registry)
    watch = Watch(bus, settings.asked, metrics)
    relay = Relay(metrics, expires_s=settings.expires, limit=settings.max_sessions)
    # Events of every kind, not of VMs alone: only an unbroken row of numbers shows that none was missed.
    events = pattern(settings.host, settings.instance)
    listening = await bus.subscribe([events], watch.heed, on_gap=watch.lose_track)
    following = asyncio.create_task(watch.follow())
    await alone(bus, info)
    serving = await bus.serve(info.queue, dispatcher(info, watch, relay, registry=registry).answer)
    await announce(bus, info, Change.ADDED)
    log.info("serving %s; the machines are those of %s", info.queue, settings.asked)
    notify_ready()
    await _until_stopped(stop, following)
    await announce(bus, info, Change.REMOVED)
    await serving.cancel()
    await listening.cancel()
    await relay.close()


async def _until_stopped(stop: asyncio.Event, following: asyncio.Task[None]) -> None:
    """Wait for `stop`; should `following` break, so does the service, and whoever started it starts it again."""
    stopping = asyncio.create_task(stop.wait())
    try:
        await asyncio.wait((stopping, following), return_when=asyncio.FIRST_COMPLETED)
        if following.done():
            following.result()
    finally:
        for task in (stopping, following):
            task.cancel()
        await asyncio.gather(stopping, following, return_exceptions=True)
