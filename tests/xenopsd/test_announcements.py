# SPDX-License-Identifier: Apache-2.0
"""How long changes are gathered before they are told: briefly when few come, longer while there is a storm of them."""

import asyncio
from collections.abc import Callable

import pytest

from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import Message
from xenops.events import Kind
from xenopsd import announcements
from xenopsd.announcements import GATHER_S, MOST_GATHER_S, STORM_PER_S, Announcements
from xenopsd.updates import Updates


class Gathering:
    """The pauses of a publisher, and what happens in each of them, in place of time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, happens: Callable[[int], int]) -> None:
        self.announce = Announcements(Updates("e"), host="h", instance="i")
        self.pauses: list[float] = []
        self.told: list[str] = []
        self._happens, self._round = happens, asyncio.Event()
        monkeypatch.setattr(announcements.asyncio, "sleep", self._sleep)  # type: ignore[attr-defined]

    async def rounds(self, count: int) -> list[float]:
        """The pauses of that many rounds, each with one change before it."""
        bus = MemoryBus(MemorySwitch())
        await bus.connect()
        await bus.subscribe(["#"], self._hear)
        publishing = asyncio.create_task(self.announce.publish(bus, self._describe))
        await asyncio.wait([publishing], timeout=0)  # it tells of what comes from now on
        for n in range(count):
            self.announce(Kind.VM, f"vm-{n}")
            while f"h.i.vm.vm-{n}" not in self.told:
                self._round.clear()
                await self._round.wait()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        await bus.close()
        return self.pauses

    async def _sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        for _ in range(self._happens(len(self.pauses))):
            self.announce(Kind.VM, "busy")

    async def _describe(self, kind: Kind, id: str) -> dict[str, object]:
        return {}

    def _hear(self, message: Message) -> None:
        self.told.append(message.routing_key)
        self._round.set()


def pauses(
    monkeypatch: pytest.MonkeyPatch, happens: Callable[[int], int], rounds: int
) -> tuple[list[float], list[str]]:
    async def run() -> tuple[list[float], list[str]]:
        async with asyncio.timeout(30):
            gathering = Gathering(monkeypatch, happens)
            return await gathering.rounds(rounds), gathering.told

    return asyncio.run(run())


def test_one_change_after_the_other_is_told_soon_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    assert pauses(monkeypatch, lambda n: 1, 50)[0] == [GATHER_S] * 50


def test_a_storm_is_gathered_for_longer_and_what_comes_after_it_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    storm = int(STORM_PER_S)
    found, told = pauses(monkeypatch, lambda n: storm if n <= 6 else 0, 16)
    assert found[0] == GATHER_S
    assert max(found) == found[6] == MOST_GATHER_S
    assert found[:7] == sorted(found[:7])
    assert found[6:] == sorted(found[6:], reverse=True)
    assert found[-1] == GATHER_S
    assert told.count("h.i.vm.busy") == 6, "a thousand changes of one machine are one event a round"
