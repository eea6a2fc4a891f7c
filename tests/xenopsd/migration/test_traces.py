# SPDX-License-Identifier: Apache-2.0
"""The real ends, driven along the tables: every way of some length through a table is played against a real xenopsd.

The other end is played by this test, which may say anything at any time. After each step the real end must be in the state
that the table says, its guest may run only where the table says so, and it must say what the table says.
`make test-crash` takes longer ways.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.xenopsd.machines import plain_vm
from tests.xenopsd.migration.meddling import Misfortunes
from tests.xenopsd.migration.pair import Host, two
from tests.xenopsd.steps.samples import ALL
from xenops.errors import Fault
from xenops.interfaces.xenops import Migration
from xenops.interfaces.xenops.migration import Decision, Standing
from xenops.rpc import stub
from xenops.types.metadata import Metadata
from xenops.types.task import Pending
from xenops.types.vm import PowerState
from xenopsd.backends.simulator.passage import send_live, send_rest
from xenopsd.backends.simulator.world.domain import Behaviour, Domain, new_domain
from xenopsd.migration import line
from xenopsd.migration.handshake import DESTINATION, MAY_RUN, SOURCE, Destination, End, Event, Message, Source, Turn
from xenopsd.store.migrations import Name, Phase

VM = "vm-1"
Word = Message | Event

# What may be said to a destination, or happens to it, whenever. It asks (AGAIN) and gives up by itself.
TO_DESTINATION: tuple[Word, ...] = (
    Message.OFFER,
    Message.MEMORY,
    Message.QUERY,
    Message.COMMIT,
    Message.ABORT,
    Event.RESTART,
)


def ways(length: int) -> Iterator[tuple[Word, ...]]:
    """Every sequence of words that leaves a destination's first state, without what cannot change anything twice in a row."""
    waiting: list[tuple[Word, ...]] = [(Message.OFFER,)]
    while waiting:
        way = waiting.pop()
        if len(way) == length:
            yield way
            continue
        end: End[Destination] = End(DESTINATION, Destination.NONE)
        for word in way:
            end.on(word)
        for word in TO_DESTINATION:
            if word is Message.MEMORY and end.state is not Destination.RECEIVING:
                continue  # a ticket is good for one connection: there is nobody to say it to
            if word is Message.OFFER and end.state is Destination.NONE:
                continue  # the same migration again, after it was given up: refused, which is as good as lost
            waiting.append((*way, word))


WAYS = list(ways(4 if ALL else 3))


class FakeSource:
    """The other end, as the test plays it: it answers nothing, and says what it is told to."""

    def __init__(self, there: Host, id: str) -> None:
        self._host, self.id = there, id
        self.peer: Migration = stub(Migration, there._client, there.queue, timeout_s=10.0)
        self.accepted: object = None

    async def say(self, word: Word) -> Destination | None:
        """Say it; the state that the answer speaks of, where there is one."""
        try:
            match word:
                case Message.OFFER:
                    self.accepted = await self.peer.offer(self.id, "xenops.nowhere.x", _metadata(), [1])
                case Message.MEMORY:
                    await self._send()
                case Message.QUERY:
                    return Destination((await self.peer.query(self.id)).value)
                case Message.COMMIT:
                    await self.peer.commit(self.id, timeout=10.0)
                    return Destination.OWNED
                case Message.ABORT:
                    await self.peer.abort(self.id)
                case Event.RESTART:
                    await self._host.crash()
        except Fault:
            return Destination.NONE if word is Message.QUERY else None
        return None

    async def _send(self) -> None:
        to = await self.peer.offer(self.id, "xenops.nowhere.x", _metadata(), [1])
        outlet = await line.connect(VM, to.host, to.port, to.ticket, version=1, tls=None, compress=None, stall_s=5.0)
        domain = _domain()
        await send_live(domain, outlet, lambda done: None)
        await send_rest(domain, set(), outlet)
        await outlet.finish()
        outlet.close()
        while await self.peer.query(self.id, timeout=5.0) is Standing.RECEIVING:
            continue


def _metadata() -> Metadata:
    return Metadata(vm=plain_vm(VM))


def _domain() -> Domain:
    """A guest that runs, with some memory."""
    domain = new_domain(plain_vm(VM), 1, 0, Behaviour())
    domain.booted = domain.built = True
    domain.paused = False
    return domain


def expected(way: tuple[Word, ...]) -> list[Destination]:
    """Where the table goes."""
    end: End[Destination] = End(DESTINATION, Destination.NONE)
    states = []
    for word in way:
        end.on(word)
        states.append(end.state)
    return states


async def state_of(there: Host, id: str) -> Destination:
    """Where the real one is, as far as anybody can see, once it is at rest."""
    arrivals = there.daemon.control.migration.arrivals
    arrival = arrivals.get(id)
    if arrival is not None and arrival.end.state is Destination.NONE:
        await arrival.until(lambda: id not in arrivals, 10.0)
        arrival = None
    if arrival is not None:
        return arrival.end.state
    crossing = there.daemon.control.migration.crossings.find(id)
    return Destination.OWNED if crossing is not None and crossing.phase in _OURS else Destination.NONE


_OURS = (Phase.OWNED, Phase.SETTLED)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: "-".join(word.value for word in way))
def test_a_real_destination_goes_by_the_table(way: tuple[Word, ...], tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path, migration_stall_timeout=30.0) as (_, there):
            source = FakeSource(there, "m")
            for word, state in zip(way, expected(way), strict=True):
                said = await source.say(word)
                assert await state_of(there, "m") is state, f"after {word.value}"
                assert said in (None, state), f"it answered {said} to {word.value}"
                domain = there.daemon.control.backend.world.domains.get(VM)  # type: ignore[attr-defined]
                if state is Destination.OWNED:
                    assert await there.wait_for(VM, PowerState.RUNNING)
                elif domain is not None:
                    assert not domain.runs, "a guest runs that is not ours"

    asyncio.run(run())


# What a real source is asked, at each of its states; the destination is a real one that is made to be silent.
SILENCES: dict[Source, tuple[str, ...]] = {
    Source.SENT: ("Migration.query",),
    Source.GIVEN: ("Migration.commit", "Migration.decision"),
}


@pytest.mark.parametrize("state", [*SILENCES, Source.KEPT, Source.GONE], ids=lambda state: state.value)
@pytest.mark.parametrize("restarted", [False, True])
def test_a_real_source_goes_by_the_table(state: Source, restarted: bool, tmp_path: Path) -> None:
    async def run() -> None:
        async with asyncio.timeout(50), at_source(tmp_path, state) as (here, id):
            end: End[Source] = End(SOURCE, state)
            if restarted:
                await here.crash()
                end.on(Event.RESTART)
            turn = end.on(Message.ASK)
            peer = stub(Migration, here._client, here.queue, timeout_s=10.0)
            assert await peer.decision(id, VM) is _decision(turn)
            if end.state in MAY_RUN:
                assert await here.wait_for(VM, PowerState.RUNNING)
            else:
                domain = here.daemon.control.backend.world.domains.get(VM)  # type: ignore[attr-defined]
                assert domain is None or not domain.runs
            assert (here.daemon.control.migration.given(VM) is not None) == (end.state is Source.GIVEN)

    asyncio.run(run())


def _decision(turn: Turn[Source] | None) -> Decision:
    if turn is None:
        return Decision.UNDECIDED
    return Decision.GIVEN if Message.COMMIT in turn.sends else Decision.KEPT


@asynccontextmanager
async def at_source(path: Path, state: Source) -> AsyncIterator[tuple[Host, str]]:
    """A real source in that state, and the id of its migration."""
    async with two(path, migration_patience=20.0) as hosts:
        here, there = hosts
        misfortunes = Misfortunes(hosts)
        await here.xenops.VM.add(plain_vm(VM))
        await here.xenops.finished(await here.xenops.VM.start(VM, paused=False))
        misfortunes.unsaid |= {"Migration.decision"} | set(SILENCES.get(state, ()))
        if state is Source.KEPT:
            await here.xenops.DEBUG.trigger("fail", ["vm.migrate_send", "IoError", "1"])
        task = await here.xenops.VM.migrate(VM, there.queue)
        station = here.daemon.control.migration
        if state in (Source.KEPT, Source.GONE):
            while isinstance((await here.xenops.Task.wait(task)).state, Pending):
                continue
        else:
            while VM not in station.departures or station.departures[VM].end.state is not state:  # noqa: ASYNC110 (nobody is told)
                await asyncio.sleep(0.01)
        yield here, str(Name(here.queue, task, there.queue, VM))
        await misfortunes.over()
