# SPDX-License-Identifier: Apache-2.0
"""The process: reads its settings, comes onto the bus, serves until it is told to stop, and leaves no program behind."""

import asyncio
import logging
import os
import sys
from functools import partial

from prometheus_client import REGISTRY, CollectorRegistry

from forkexecd import posix
from forkexecd.api import Answers
from forkexecd.config import ForkexecdSettings
from forkexecd.metrics import Metrics
from forkexecd.runner import Runner
from xenops.bus.port import Bus
from xenops.events import Change
from xenops.service.bus import alone, announce, connected, describe
from xenops.service.log import configure
from xenops.service.process import notify_ready, run
from xenops.service.settings import load

log = logging.getLogger(__name__)
PROGRAM = "forkexecd"


def main() -> int:
    """The command `forkexecd`."""
    settings = load(ForkexecdSettings, program=PROGRAM, argv=sys.argv[1:], environ=os.environ)
    configure(PROGRAM, settings.log_level)
    posix.keep_exit_statuses()
    return run(partial(_main, settings))


async def _main(settings: ForkexecdSettings, stop: asyncio.Event) -> int:
    bus = await connected(settings, PROGRAM, stop)
    if bus is None:
        return 0
    guard = posix.Guard()
    try:
        await serve(bus, settings, guard, stop)
    finally:
        await bus.close()
        guard.close()
    return 0


async def serve(
    bus: Bus,
    settings: ForkexecdSettings,
    guard: posix.Guard,
    stop: asyncio.Event,
    *,
    registry: CollectorRegistry = REGISTRY,
) -> None:
    """Answer requests until `stop`; then let nothing start any more, and stop what runs."""
    info = describe(PROGRAM, settings, instance=PROGRAM, queue=f"forkexec.{settings.host}", features=["run"])
    runner = Runner(guard, Metrics(registry), limit=settings.max_programs, kill_after_s=settings.kill_after)
    answers = Answers(info, runner, registry=registry)
    await alone(bus, info)
    serving = await bus.serve(info.queue, answers.answer)
    await announce(bus, info, Change.ADDED)
    log.info("serving %s, at most %d programs at once", info.queue, settings.max_programs)
    notify_ready()
    await stop.wait()
    await announce(bus, info, Change.REMOVED)
    await serving.cancel()
    await runner.close()
    await answers.drained()
