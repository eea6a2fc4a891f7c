# SPDX-License-Identifier: Apache-2.0
"""Every domain's part of the store changes, again and again: what that costs is counted, and bounded by the machines.

However many changes there were: one entry for each machine in what a slow reader is told, one event, one look at it
with at most one more waiting, and nothing at all written into the store.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.scale.crowd import fill, name
from tests.scale.sizes import PATIENCE_S, RUNNING
from tests.xenopsd.daemon import running
from tests.xenopsd.machines import plain_vm
from xenops.bus.port import Message
from xenops.client import Xenops
from xenops.events import Event, Kind
from xenopsd import updates
from xenopsd.announcements import Announcements
from xenopsd.control import Control
from xenopsd.main import Daemon
from xenopsd.store.database import Database

pytestmark = pytest.mark.timeout(PATIENCE_S + 10)
TIMES, GONE, POLLS = 10, 50, 64
IDLE = f"{name(RUNNING)}"  # registered, never started: no storm touches it


class Watch:
    """Counts what is said, looked at and written."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: Counter[str] = Counter()
        self.looks = self.writes = 0
        self.news = asyncio.Event()
        self._count(monkeypatch, Control, "_check", self._looked)
        self._count(monkeypatch, Database, "write", self._wrote)
        self._count(monkeypatch, Database, "write_or_refuse", self._wrote)

    def hear(self, message: Message) -> None:
        """An event of a machine."""
        event = msgspec.msgpack.decode(message.body, type=Event)
        if event.kind is Kind.VM:
            self.events[event.id] += 1
            self.news.set()

    def forget(self) -> None:
        """Count from now on."""
        self.events.clear()
        self.looks = self.writes = 0

    async def until(self, done: Callable[[], bool]) -> None:
        """Wait for what only happens with a machine's event or look."""
        while not done():
            self.news.clear()
            await self.news.wait()

    def _looked(self) -> None:
        self.looks += 1
        self.news.set()

    def _wrote(self) -> None:
        self.writes += 1

    @staticmethod
    def _count(monkeypatch: pytest.MonkeyPatch, owner: type, attribute: str, tell: Callable[[], None]) -> None:
        real = getattr(owner, attribute)

        def counted(*args: Any, **kwargs: Any) -> Any:
            tell()
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, attribute, counted)


Work = Callable[[Daemon, Xenops, Watch], Awaitable[None]]


def with_crowd(path: Path, monkeypatch: pytest.MonkeyPatch, work: Work) -> None:
    async def run() -> None:
        async with asyncio.timeout(PATIENCE_S), running(path) as (daemon, xenops):
            watch = Watch(monkeypatch)
            await fill(xenops)
            listening = await xenops.bus.subscribe(["#"], watch.hear)
            await told(xenops, watch)
            watch.forget()
            await work(daemon, xenops, watch)
            await listening.cancel()

    asyncio.run(run())


async def told(xenops: Xenops, watch: Watch) -> None:
    """Return when all that changed so far has been published: events come in the order of the changes."""
    before = watch.events[IDLE]
    await xenops.VM.rename(IDLE, f"renamed {before}")
    await watch.until(lambda: watch.events[IDLE] > before)


def test_a_storm_is_one_change_of_each_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(daemon: Daemon, xenops: Xenops, watch: Watch) -> None:
        looks = RUNNING + min(daemon.workers.size, RUNNING)  # those that have just begun are looked at once more
        token, held = await xenops.UPDATES.last_id(), await entries(xenops)
        await xenops.DEBUG.trigger("storm", [str(TIMES)])
        await watch.until(lambda: watch.looks == looks and daemon.workers.depth()[0] == 0)
        assert watch.writes <= 1, "the answer to the request, and nothing else"
        answer = await xenops.UPDATES.get(token)
        crowd = {name(n) for n in range(RUNNING)}
        assert sorted(it.id for it in answer.updates if it.kind is Kind.VM) == sorted(crowd)
        await told(xenops, watch)
        del watch.events[IDLE]
        assert watch.events == Counter(crowd)
        assert watch.looks == looks
        assert await entries(xenops) == held, "what a reader might still want to know does not grow"

    with_crowd(tmp_path, monkeypatch, work)


def test_while_nothing_can_be_looked_at_each_machine_waits_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(daemon: Daemon, xenops: Xenops, watch: Watch) -> None:
        begun = min(daemon.workers.size, RUNNING)
        await xenops.DEBUG.trigger("pause-call", ["vm.states"])
        for n in range(1, TIMES + 1):
            await xenops.DEBUG.trigger("storm", ["1"])
            assert daemon.workers.depth()[0] == (RUNNING - begun if n == 1 else RUNNING)
        await xenops.DEBUG.trigger("release-call", ["vm.states"])
        await watch.until(lambda: watch.looks == RUNNING + begun and daemon.workers.depth()[0] == 0)
        await told(xenops, watch)
        assert watch.looks == RUNNING + begun
        assert all(watch.events[name(n)] <= TIMES for n in range(RUNNING))

    with_crowd(tmp_path, monkeypatch, work)


def test_readers_who_never_come_back_cost_what_there_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was removed is remembered for them up to a limit; whoever comes after that is told to begin anew."""
    monkeypatch.setattr(updates, "_REMOVED_KEPT", GONE)

    async def work(daemon: Daemon, xenops: Xenops, watch: Watch) -> None:
        token, held = await xenops.UPDATES.last_id(), await entries(xenops)
        for n in range(GONE):  # a machine and a task each time
            await xenops.VM.add(plain_vm(f"passing-{n}"))
            await xenops.finished(await xenops.VM.start(f"passing-{n}", paused=False))
            await xenops.finished(await xenops.VM.shutdown(f"passing-{n}"))
            await xenops.VM.remove(f"passing-{n}")
        assert await entries(xenops) <= held + GONE
        answer = await xenops.UPDATES.get(token)
        assert answer.resync
        assert len(answer.updates) <= held + GONE

    with_crowd(tmp_path, monkeypatch, work)


def test_polls_whose_askers_have_gone_end_with_the_next_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, waiting = Announcements.after, 0

    async def after(announcements: Announcements, untrusted_token: str | None, timeout_s: float) -> Any:
        nonlocal waiting
        waiting += 1
        moved.set()
        try:
            return await real(announcements, untrusted_token, timeout_s)
        finally:
            waiting -= 1
            moved.set()

    async def until(count: int) -> None:
        while waiting != count:
            moved.clear()
            await moved.wait()

    async def work(daemon: Daemon, xenops: Xenops, watch: Watch) -> None:
        monkeypatch.setattr(Announcements, "after", after)
        token = await xenops.UPDATES.last_id()
        polls = [asyncio.create_task(xenops.UPDATES.get(token, 300.0)) for _ in range(POLLS)]
        await until(POLLS)
        for poll in polls:
            poll.cancel()
        await asyncio.gather(*polls, return_exceptions=True)
        assert waiting == POLLS, "nobody waits for an answer, and xenopsd cannot know"
        await told(xenops, watch)
        await until(0)

    moved = asyncio.Event()
    with_crowd(tmp_path, monkeypatch, work)


async def entries(xenops: Xenops) -> int:
    """How many changes are kept for readers."""
    return len((await xenops.get_diagnostics())["updates"]["updates"])
