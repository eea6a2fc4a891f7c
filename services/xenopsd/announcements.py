# SPDX-License-Identifier: Apache-2.0
"""Tells the outside what changed: wakes long polls at once, and publishes events a moment later.

Publishing gathers changes for a moment, and for longer while too many of them come, so that a storm of them becomes few
events; one change now and then is told of soon, however long that goes on. It must never hold up the work whose changes it tells of.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from xenops.bus.port import Bus, Message
from xenops.errors import DoesNotExist, Fault, Migrated
from xenops.events import Change, Event, Kind, encode, topic
from xenops.types.update import Update
from xenops.types.update import Updates as Answer
from xenopsd.updates import Updates

log = logging.getLogger(__name__)

GATHER_S, MOST_GATHER_S = 0.02, 0.2
STORM_PER_S = 1000.0  # from so many changes a second on, they are gathered for longer
Describe = Callable[[Kind, str], Awaitable[dict[str, object]]]  # what an event says beside the id


class Announcements:
    """The daemon's one place to say that something changed."""

    def __init__(self, updates: Updates, *, host: str, instance: str) -> None:
        self.updates = updates
        self._host, self._instance = host, instance
        self._news = asyncio.Event()
        self._published = 0
        self._told: str | None = None  # what the bus knows already

    def __call__(self, kind: Kind, id: str, change: Change = Change.CHANGED) -> None:
        """Something changed."""
        self.updates.add(kind, id, change)
        self._wake()

    def barrier(self, vm: str, id: int) -> None:
        """Mark this place in the stream."""
        self.updates.inject_barrier(vm, id)
        self._wake()

    async def after(self, untrusted_token: str | None, timeout_s: float) -> Answer:
        """What changed after a token, as soon as there is anything or the time is up."""
        try:
            async with asyncio.timeout(timeout_s):
                while not self.updates.has_news(untrusted_token):
                    await self._news.wait()
        except TimeoutError:
            log.debug("nothing changed in %g s", timeout_s)
        return self.updates.get(untrusted_token)

    async def publish(self, bus: Bus, describe: Describe) -> None:
        """Publish events until cancelled: what changes from now on, or from where an earlier call was broken off."""
        self._told = self._told or self.updates.token()
        gather_s = GATHER_S
        while True:
            while not self.updates.has_news(self._told):
                await self._news.wait()
            before = self.updates.seq
            await asyncio.sleep(gather_s)
            is_storm = self.updates.seq - before > STORM_PER_S * gather_s
            gather_s = min(2 * gather_s, MOST_GATHER_S) if is_storm else max(gather_s / 2, GATHER_S)
            answer = self.updates.get(self._told)
            for update in answer.updates:
                await self._publish_one(bus, update, answer.token, describe)
            self._told = answer.token

    async def _publish_one(self, bus: Bus, update: Update, token: str, describe: Describe) -> None:
        try:
            facts = {} if update.change is Change.REMOVED else await describe(update.kind, update.id)
        except (DoesNotExist, Migrated):
            return  # it has gone since; its removal is announced next
        except Fault as fault:  # who hears that it changed can ask for the rest
            log.warning("what %s %s is now is not known: %s", update.kind.value, update.id, fault)
            facts = {}
        except Exception:
            log.exception("what %s %s is now is not known", update.kind.value, update.id)
            facts = {}
        self._published += 1
        event = Event(
            epoch=self.updates.epoch,
            seq=self._published,
            host=self._host,
            instance=self._instance,
            kind=update.kind,
            id=update.id,
            change=update.change,
            at=int(time.time() * 1000),
            token=token,
            **facts,  # type: ignore[arg-type]
        )
        await bus.publish(topic(self._host, self._instance, update.kind, update.id), Message(encode(event)))

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()
