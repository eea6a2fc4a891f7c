# SPDX-License-Identifier: Apache-2.0
"""What forkexecd answers on the bus: FORKEXEC and the general calls.

A request is acknowledged before its program starts, never after: it runs at most once, even if forkexecd dies.
"""

import asyncio
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from forkexecd.outcomes import RecentOutcomes
from forkexecd.runner import Runner
from xenops.bus.port import Delivery, Message
from xenops.errors import BadRequest
from xenops.interfaces.forkexec import FORKEXEC
from xenops.interfaces.xenops.general import General
from xenops.rpc import Dispatcher
from xenops.service.bus import request_metrics
from xenops.types.process import Ended, Program
from xenops.types.service import ServiceInfo


class ForkexecService:
    """FORKEXEC as this host performs it."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    async def run(self, program: Program) -> Ended:
        """Run a program to its end."""
        check(program)
        return await self._runner.run(program)


class GeneralService:
    """Who forkexecd is and what it does now."""

    def __init__(self, info: ServiceInfo, runner: Runner) -> None:
        self._info, self._runner = info, runner

    async def query(self) -> ServiceInfo:
        """Name, version, features and place of the service."""
        return self._info

    async def get_diagnostics(self) -> dict[str, Any]:
        """The programs that run now."""
        return {"programs": self._runner.diagnostics()}


class Answers:
    """What `Bus.serve` wants, and a way to wait until every caller has had its reply."""

    def __init__(self, info: ServiceInfo, runner: Runner, *, registry: CollectorRegistry = REGISTRY) -> None:
        self._dispatcher = Dispatcher(
            [(FORKEXEC, ForkexecService(runner)), (General, GeneralService(info, runner))],
            outcomes=RecentOutcomes(),
            observe=request_metrics("forkexecd", registry),
        )
        self._under_way = 0
        self._idle = asyncio.Event()
        self._idle.set()

    async def answer(self, delivery: Delivery) -> Message | None:
        """The reply to one request."""
        delivery.accept()
        self._under_way += 1
        self._idle.clear()
        try:
            return await self._dispatcher.answer(delivery)
        finally:
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()

    async def drained(self) -> None:
        """Return when no request is under way."""
        await self._idle.wait()


def check(untrusted: Program) -> None:
    """Refuse what no kernel would take, by the name of the field."""
    texts = {f"argv[{n}]": text for n, text in enumerate(untrusted.argv)} | {"cwd": untrusted.cwd}
    for field in ("argv[0]", "cwd"):
        if not texts[field].startswith("/"):
            raise BadRequest(f"params.program.{field}", "expected an absolute path")
    for name in untrusted.env:
        if not name or "=" in name:
            raise BadRequest("params.program.env", "expected variable names that are not empty and hold no =")
    for field, text in (texts | {f"env.{name[:80]}": name + value for name, value in untrusted.env.items()}).items():
        if "\0" in text:
            raise BadRequest(f"params.program.{field}", "expected no NUL byte")
