# SPDX-License-Identifier: Apache-2.0
"""What vncproxy answers on the bus: CONSOLE and the general calls; and how it learns which consoles there are."""

import asyncio
import logging
from typing import Any

from prometheus_client import REGISTRY, CollectorRegistry

from vncproxy.consoles import Consoles, Question
from vncproxy.metrics import Metrics
from vncproxy.relay import Relay
from xenops.bus.port import Bus, Message
from xenops.errors import DoesNotExist, Fault, Migrated, ServiceFault
from xenops.interfaces.console import CONSOLE
from xenops.interfaces.xenops.general import General
from xenops.interfaces.xenops.vm import VM
from xenops.rpc import Dispatcher, stub
from xenops.service.bus import request_metrics
from xenops.types.console import ConsoleProtocol, ConsoleRoute, VmConsole
from xenops.types.service import ServiceInfo

log = logging.getLogger(__name__)
_ASK_S = 30.0
_LOOK_S = 5.0  # for a caller who waits
_CALM_S = 1.0  # a machine that starts changes several times: asked once


class Watch:
    """Keeps `consoles` true by asking xenopsd what its events leave open."""

    def __init__(
        self, bus: Bus, queue: str, metrics: Metrics, *, retry_s: float = 1.0, calm_s: float = _CALM_S
    ) -> None:
        self.consoles = Consoles()
        self._listing = stub(VM, bus, queue, timeout_s=_ASK_S)
        self._looking = stub(VM, bus, queue, timeout_s=_LOOK_S)
        self._metrics, self._retry_s, self._calm_s, self._queue = metrics, retry_s, calm_s, queue
        self._news, self._asking = asyncio.Event(), asyncio.Lock()

    def heed(self, event: Message) -> None:
        """Take an event of xenopsd."""
        self.consoles.heed(event.body)
        self._news.set()

    def lose_track(self) -> None:
        """Events may have been missed."""
        self.consoles.lose_track()
        self._news.set()

    async def follow(self) -> None:
        """Ask whatever is open, for ever; while xenopsd does not answer, ask again from time to time."""
        while True:
            self._news.clear()
            if await self._ask():
                await self._news.wait()
                await asyncio.sleep(self._calm_s)
            else:
                await asyncio.sleep(self._retry_s)

    async def settle(self) -> None:
        """See to it that all consoles are known as they are now, or as they were last if xenopsd is away."""
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._ask()
        except TimeoutError:
            log.warning("the consoles may have changed: %s does not answer", self._queue)

    async def _ask(self) -> bool:
        """Ask all that is open; false when there was no answer."""
        async with self._asking:
            while (question := self.consoles.ask()) is not None:
                try:
                    await self._answered(question)
                except Fault as fault:
                    log.warning("the consoles are not known for the moment: %s", fault)
                    self.consoles.ask_again(question)
                    return False
                except asyncio.CancelledError:
                    self.consoles.ask_again(question)
                    raise
                finally:
                    self._metrics.consoles.set(len(self.consoles.list()))
        return True

    async def look(self, vm: str) -> None:
        """See to it that one VM's consoles are known as they are now, or as they were last if xenopsd is away."""
        try:
            self.consoles.learn(await self._looking.stat(vm))
        except (DoesNotExist, Migrated):
            self.consoles.forget(vm)
            raise
        except ServiceFault as fault:
            log.warning("the consoles of %s may have changed: %s", vm, fault)

    async def _answered(self, question: str | Question) -> None:
        if isinstance(question, Question):
            self.consoles.learn_all(await self._listing.list())
            log.info("%s has %d consoles", self._queue, len(self.consoles.list()))
            return
        try:
            self.consoles.learn(await self._listing.stat(question))
        except (DoesNotExist, Migrated):
            self.consoles.forget(question)


class ConsoleService:
    """CONSOLE as this host performs it."""

    def __init__(self, watch: Watch, relay: Relay) -> None:
        self._watch, self._relay = watch, relay

    async def list(self) -> list[VmConsole]:
        """The consoles of all running machines."""
        await self._watch.settle()
        return self._watch.consoles.list()

    async def open(self, vm: str, protocol: ConsoleProtocol = ConsoleProtocol.VT100) -> ConsoleRoute:
        """Open a port for one viewer of a console."""
        await self._watch.look(vm)
        console = self._watch.consoles.find(vm, protocol)
        if console is None:
            raise DoesNotExist("console", f"{vm}/{protocol.value}")
        return await self._relay.open(vm, console)


class GeneralService:
    """Who vncproxy is and what it does now."""

    def __init__(self, info: ServiceInfo, watch: Watch, relay: Relay) -> None:
        self._info, self._watch, self._relay = info, watch, relay

    async def query(self) -> ServiceInfo:
        """Name, version, features and place of the service."""
        return self._info

    async def get_diagnostics(self) -> dict[str, Any]:
        """How many consoles and sessions there are."""
        return {"consoles": len(self._watch.consoles.list()), "sessions": self._relay.sessions}


def dispatcher(info: ServiceInfo, watch: Watch, relay: Relay, *, registry: CollectorRegistry = REGISTRY) -> Dispatcher:
    """What answers on vncproxy's queue."""
    return Dispatcher(
        [(CONSOLE, ConsoleService(watch, relay)), (General, GeneralService(info, watch, relay))],
        observe=request_metrics("vncproxy", registry),
    )
