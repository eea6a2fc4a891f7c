# SPDX-License-Identifier: Apache-2.0
"""What an orchestrator's first ten lines use, from coroutines; for scripts that wait there is `xenops.blocking`.

async with connect() as xenops:
    task = await xenops.VM.start("myfirstvm")
    await xenops.finished(task)
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

from xenops.asking import REPLY_TIMEOUT_S, stub
from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Bus, Message, Subscription
from xenops.ending import POLL_S, OnProgress, Waiting, outcome, patterns, placed, read_event
from xenops.errors import DoesNotExist
from xenops.events import Event, Kind
from xenops.interfaces.xenops import DEBUG, HOST, PCI, UPDATES, VBD, VGPU, VIF, VM, VUSB, General, Task
from xenops.types.service import ServiceInfo

log = logging.getLogger(__name__)
_WAITING_EVENTS = 10000


class Xenops:
    """xenopsd, as seen from a coroutine; made by `connect`."""

    def __init__(self, bus: Bus, queue: str, *, timeout_s: float = REPLY_TIMEOUT_S, debug_info: str = "") -> None:
        self.bus, self.queue, self._timeout_s = bus, queue, timeout_s

        def of(interface: Any) -> Any:
            return stub(interface, bus, queue, timeout_s=timeout_s, debug_info=debug_info)

        self._general: General = of(General)
        self.VM: VM = of(VM)
        self.VBD: VBD = of(VBD)
        self.VIF: VIF = of(VIF)
        self.PCI: PCI = of(PCI)
        self.VUSB: VUSB = of(VUSB)
        self.VGPU: VGPU = of(VGPU)
        self.HOST: HOST = of(HOST)
        self.Task: Task = of(Task)
        self.UPDATES: UPDATES = of(UPDATES)
        self.DEBUG: DEBUG = of(DEBUG)

    async def __aenter__(self) -> "Xenops":
        await self.bus.connect(self._timeout_s)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.bus.close()

    async def query(self) -> ServiceInfo:
        """Name, version, features and place of the service."""
        return await self._general.query()

    async def get_diagnostics(self) -> dict[str, Any]:
        """What the service is doing now; for people who debug."""
        return await self._general.get_diagnostics()

    async def finished(self, task: str, timeout_s: float | None = None, on_progress: OnProgress | None = None) -> Any:
        """The result of a task once it has ended, or its fault; its record is removed. `TimedOut` leaves it alone."""
        waiting = Waiting(self.queue, timeout_s, on_progress, poll_s=POLL_S)
        progress = None if on_progress is None else await self._tell_progress(task, on_progress)
        try:
            while not waiting.has_ended(now := await self.Task.wait(task, timeout=waiting.poll_s())):
                log.debug("%s goes on", task)
        finally:
            if progress is not None:
                await progress.cancel()
        try:
            await self.Task.destroy(task)
        except DoesNotExist:
            log.debug("the record of %s had been removed already", task)
        return outcome(now)

    async def _tell_progress(self, task: str, on_progress: OnProgress) -> Subscription:
        """Progress comes by events, as it is made."""

        def receive(message: Message) -> None:
            event = read_event(message)
            if event is not None and isinstance(event.progress, float):
                on_progress(event.progress)

        return await self.bus.subscribe(patterns(self.queue, (Kind.TASK,), task), receive)

    def events(self, kinds: Iterable[Kind] = (), *, on_gap: Callable[[], None] | None = None) -> "Events":
        """What changes from now on: `async with xenops.events() as events: async for event in events: …`."""
        return Events(self.bus, self.queue, kinds, on_gap)


class Events(AsyncIterator[Event]):
    """Events as they come. Who is slow gets only the newest of each object, never wrong ones."""

    def __init__(self, bus: Bus, queue: str, kinds: Iterable[Kind], on_gap: Callable[[], None] | None) -> None:
        self._bus, self._patterns, self._on_gap = bus, patterns(queue, kinds), on_gap
        self._waiting: dict[tuple[Kind, str], Event] = {}
        self._arrived = asyncio.Event()
        self._subscription: Subscription | None = None

    async def __aenter__(self) -> "Events":
        if self._subscription is None:
            self._subscription = await self._bus.subscribe(self._patterns, self._receive, on_gap=self._on_gap)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._subscription is not None:
            await self._subscription.cancel()

    async def __anext__(self) -> Event:
        await self.__aenter__()
        while not self._waiting:
            self._arrived.clear()
            await self._arrived.wait()
        return self._waiting.pop(next(iter(self._waiting)))

    def _receive(self, message: Message) -> None:
        event = read_event(message)
        if event is None:
            return
        key = event.kind, event.id
        if len(self._waiting) >= _WAITING_EVENTS and key not in self._waiting:
            self._waiting.pop(next(iter(self._waiting)))
            if self._on_gap is not None:
                self._on_gap()
        self._waiting.pop(key, None)
        self._waiting[key] = event
        self._arrived.set()


def connect(
    url: str | None = None, queue: str | None = None, *, timeout_s: float = REPLY_TIMEOUT_S, debug_info: str = ""
) -> Xenops:
    """xenopsd at this URL and queue, or at the place that `xenops.where.find` says; to be used with `async with`."""
    url, queue = placed(url, queue)
    return Xenops(AmqpBus(url, name="client"), queue, timeout_s=timeout_s, debug_info=debug_info)
