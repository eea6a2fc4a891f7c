# SPDX-License-Identifier: Apache-2.0
"""Machines on their way to here: received, prepared, and then what their source says, however often we have to ask.

Nobody but their source knows of them until they are ours.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextvars import Context
from functools import partial
from weakref import WeakValueDictionary

import msgspec

from xenops.errors import AlreadyExists, Busy, DoesNotExist, Fault, MigrationFailed, ServiceFault
from xenops.events import Change, Kind
from xenops.interfaces.xenops import Migration
from xenops.interfaces.xenops.migration import Accepted, Decision, Standing
from xenops.types.metadata import Metadata
from xenopsd.control import Control
from xenopsd.engine.perform import perform
from xenopsd.engine.plan import Plan
from xenopsd.engine.tasks import Task
from xenopsd.imports.metadata import read_metadata
from xenopsd.migration.arrival import Arrival
from xenopsd.migration.handshake import Destination, Event, Message
from xenopsd.migration.stream import agreed
from xenopsd.operations import migrate
from xenopsd.store.machine import Machine
from xenopsd.store.migrations import Crossing, Phase

log = logging.getLogger(__name__)

RECEIVE = "VM.migrate_receive"
_ASK_S, _MOST_ASK_S = 0.5, 30.0  # how long a decision is waited for before it is asked for
_AGAIN_S = 1.0
_ROOM_S = 4.0  # for one that was given up to be cleared away
_STANDINGS = {
    Destination.RECEIVING: Standing.RECEIVING,
    Destination.PREPARED: Standing.PREPARED,
    Destination.OWNED: Standing.OWNED,
}


class Arrivals:
    """All machines on their way to here."""

    def __init__(self, control: Control) -> None:
        self._control, self._station = control, control.migration
        self._arrivals, self._crossings = control.migration.arrivals, control.migration.crossings
        self._offering: WeakValueDictionary[str, asyncio.Lock] = (
            WeakValueDictionary()
        )  # by machine, while anybody offers it
        self._work: set[asyncio.Task[None]] = set()

    async def offer(
        self, id: str, source: str, metadata: Metadata, versions: list[int], *, compress: bool, paused: bool
    ) -> Accepted:
        """Take a machine, if there is room for it. Raises `AlreadyExists`, `Busy`, `BadRequest`, `MigrationFailed`."""
        async with self._offering.setdefault(metadata.vm.id, asyncio.Lock()):
            arrival = self._arrivals.get(id)
            if arrival is None:
                arrival = await self._begin(id, source, metadata, versions, compress=compress, paused=paused)
            if arrival.end.on(Message.OFFER) is None or arrival.accepted is None:
                raise MigrationFailed(arrival.vm, "it has been received already, or given up")
            return arrival.accepted

    async def query(self, id: str, timeout_s: float) -> Standing:
        """How far it is, as soon as it is more than receiving. Raises `DoesNotExist`."""
        arrival = self._arrivals.get(id)
        if arrival is None:
            if self._is_ours(id):
                return Standing.OWNED
            raise DoesNotExist("migration", id)
        await arrival.until(lambda: arrival.end.state is not Destination.RECEIVING, timeout_s)
        arrival.end.on(Message.QUERY)
        if arrival.end.state is Destination.NONE:
            raise DoesNotExist("migration", id)
        return _STANDINGS[arrival.end.state]

    async def commit(self, id: str, timeout_s: float) -> bool:
        """It is ours; whether it runs. Raises `DoesNotExist`, and `Busy` when that is not durable in time."""
        arrival, crossing = self._arrivals.get(id), self._crossings.find(id)
        if arrival is None or arrival.end.would(Message.COMMIT) is None:
            if crossing is not None and self._is_ours(id):
                return not crossing.paused
            raise DoesNotExist("migration", id)
        arrival.given = True
        arrival.tell()
        await arrival.until(lambda: arrival.runs or arrival.settled, timeout_s)
        if arrival.end.state is not Destination.OWNED:
            raise Busy(f"the store, for VM {arrival.vm},", 1000)
        return arrival.runs and not arrival.crossing.paused

    async def abort(self, id: str) -> None:
        """Its source keeps it."""
        arrival = self._arrivals.get(id)
        if arrival is not None and not arrival.given:
            self._abort(arrival)

    async def recover(self) -> None:
        """Go on where an earlier life ended."""
        for crossing in self._crossings:
            if crossing.phase is Phase.OWNED:
                self._spawn(self._settle_owned(crossing))
            elif crossing.phase in (Phase.RECEIVING, Phase.PREPARED) and crossing.metadata is not None:
                prepared = crossing.phase is Phase.PREPARED
                state = Destination.PREPARED if prepared else Destination.RECEIVING
                arrival = self._expect(crossing, state)
                arrival.end.on(Event.RESTART)
                log.info("VM %s was %s when we ended", crossing.vm, crossing.phase.value)
                self._spawn(self._decide(arrival) if prepared else self._give_up(arrival))

    async def expire(self, *, older_than_s: float) -> None:
        """Forget migrations that are over for so long, unless a source may not know that: it asks when it is there again."""
        silent: set[str] = set()
        for crossing in self._crossings.over(older_than_s=older_than_s):
            ours = crossing.phase is Phase.GONE or crossing.peer == self._station.queue
            if ours or await self._has_let_go(crossing, silent):
                self._crossings.forget(crossing)
            else:
                self._crossings.postpone(crossing)

    async def _has_let_go(self, crossing: Crossing, silent: set[str]) -> bool:
        """Whether the source knows by now that the machine is ours; who is `silent` is not asked twice."""
        if crossing.peer in silent:
            return False
        try:
            return await self._hear(crossing) is Decision.KEPT  # it has nothing of it any more
        except Fault as fault:
            log.info("whether %s knows that VM %s is ours cannot be told: %s", crossing.peer, crossing.vm, fault)
            silent.add(crossing.peer)
            return False

    async def stop(self) -> None:
        """End all that is under way; the next life goes on."""
        for work in tuple(self._work):
            work.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        self._station.door.close()

    def _is_ours(self, id: str) -> bool:
        crossing = self._crossings.find(id)
        return crossing is not None and crossing.phase in (Phase.OWNED, Phase.SETTLED)

    async def _begin(
        self, id: str, source: str, metadata: Metadata, versions: list[int], *, compress: bool, paused: bool
    ) -> Arrival:
        read_metadata(msgspec.to_builtins(metadata))  # the figures must hold
        vm = metadata.vm.id
        if (version := agreed(versions)) is None:
            raise MigrationFailed(vm, f"{self._station.queue} speaks no version of the stream out of {versions}")
        if self._crossings.find(id) is not None:
            raise MigrationFailed(vm, "this migration has come to its end before")
        await self._make_room(vm)
        crossing = Crossing(id=id, vm=vm, peer=source, phase=Phase.RECEIVING, metadata=metadata, paused=paused)
        transaction = self._crossings.transaction()
        self._crossings.put(transaction, crossing)
        await transaction.commit()
        arrival = self._expect(crossing, Destination.NONE)
        arrival.end.on(Message.OFFER)
        try:
            arrival.expected = await self._station.door.expect(vm, compress=compress)
        except MigrationFailed:
            arrival.end.on(Event.GIVE_UP)
            self._spawn(self._give_up(arrival))
            raise
        door = self._station.door
        arrival.accepted = Accepted(
            host=door.host,
            port=door.port,
            ticket=arrival.expected.ticket,
            version=version,
            compress=compress,
            tls=self._station.streams.tls,
        )
        arrival.expected.line.add_done_callback(lambda _: arrival.tell())
        self._spawn(self._receive(arrival))
        return arrival

    async def _make_room(self, vm: str) -> None:
        """No other machine of that id may be here, or on its way."""
        for other in tuple(self._arrivals.values()):
            if other.vm == vm:
                if other.end.state is Destination.PREPARED:
                    await self._ask(other)
                if not await other.until(lambda other=other: other.id not in self._arrivals, _ROOM_S):  # type: ignore[misc]
                    raise Busy(f"VM {vm}, which is on its way here by another migration,", 1000)
        if self._station.given(vm) is not None:  # it comes back before we heard that it had arrived there
            self._station.peers.wake(vm)
            self._control.check(vm)
            raise Busy(f"VM {vm}, which leaves just now,", 200)
        if vm in self._control.machines:
            raise AlreadyExists("VM", vm)

    def _expect(self, crossing: Crossing, state: Destination) -> Arrival:
        assert crossing.metadata is not None
        machine = Machine.from_metadata(crossing.metadata)
        arrival = self._arrivals[crossing.id] = Arrival(crossing, machine, state)
        self._control.machines.expect(machine, lambda: Busy(f"VM {machine.id}, which is on its way here,", 1000))
        return arrival

    async def _receive(self, arrival: Arrival) -> None:
        task = arrival.task = self._control.tasks.new(RECEIVE, vm=arrival.vm, private=True)
        try:
            await self._perform(migrate.arrive(arrival), task)
        except Exception as error:
            told = not isinstance(error, Fault)
            log.warning("VM %s does not arrive from %s: %s", arrival.vm, arrival.crossing.peer, error, exc_info=told)
        finally:
            self._control.tasks.drop(task)
            if arrival.expected is not None:
                self._station.door.forget(arrival.expected)
        if arrival.end.state is Destination.PREPARED:
            await self._decide(arrival)
        else:
            arrival.end.on(Event.GIVE_UP)
            await self._give_up(arrival)

    async def _decide(self, arrival: Arrival) -> None:
        """Do what the source says, as soon as we know that."""
        wait_s = _ASK_S
        while arrival.end.state is Destination.PREPARED:
            heard = await arrival.until(lambda: arrival.given or arrival.end.state is not Destination.PREPARED, wait_s)
            if not heard:
                await self._ask(arrival)
                wait_s = min(2 * wait_s, _MOST_ASK_S)
            if arrival.given:
                await self._settle(arrival)
        if arrival.end.state is Destination.NONE:
            await self._give_up(arrival)

    async def _ask(self, arrival: Arrival) -> None:
        arrival.end.on(Event.AGAIN)
        try:
            decision = await self._hear(arrival.crossing)
        except ServiceFault as fault:
            log.warning("VM %s waits for %s to say whose it is: %s", arrival.vm, arrival.crossing.peer, fault)
            return
        if decision is Decision.GIVEN:
            arrival.given = True
            arrival.tell()
        elif decision is Decision.KEPT and not arrival.given:
            self._abort(arrival)

    async def _hear(self, crossing: Crossing) -> Decision:
        async def ask(peer: Migration) -> Decision:
            return await peer.decision(crossing.id, crossing.vm)

        return await self._station.peers.once(crossing.peer, ask)

    def _abort(self, arrival: Arrival) -> None:
        arrival.end.on(Message.ABORT)
        if arrival.task is not None:
            arrival.task.cancel()
        arrival.tell()

    async def _settle(self, arrival: Arrival) -> None:
        work = partial(self._in_turn, migrate.settle(arrival), arrival.vm)
        try:
            await self._control.turns.take(arrival.vm, RECEIVE, work)
        except Exception as error:  # noqa: BLE001 (said, and tried again)
            log.error("VM %s is ours but not settled, and is tried again: %s", arrival.vm, error)
        if arrival.end.state is not Destination.OWNED:
            await asyncio.sleep(_AGAIN_S)
            return
        arrival.settled = True
        self._arrivals.pop(arrival.id, None)
        arrival.tell()
        if not arrival.runs:
            self._spawn(self._settle_owned(arrival.crossing))

    async def _settle_owned(self, crossing: Crossing) -> None:
        """What is owed to a machine that is ours already."""
        while crossing.vm in self._control.machines:
            machine = self._control.machines.find(crossing.vm)
            arrival = Arrival(crossing, machine, Destination.OWNED)
            try:
                await self._control.turns.take(
                    crossing.vm, RECEIVE, partial(self._in_turn, migrate.settle(arrival), crossing.vm)
                )
                return
            except Exception as error:  # noqa: BLE001 (said, and tried again)
                log.warning("VM %s, which has arrived, cannot run yet: %s", crossing.vm, error)
            await asyncio.sleep(_AGAIN_S)

    async def _in_turn(self, plan: Plan, vm: str) -> None:
        task = self._control.tasks.new(RECEIVE, vm=vm, private=True)
        try:
            await self._perform(plan, task)
        finally:
            self._control.tasks.drop(task)

    async def _give_up(self, arrival: Arrival) -> None:
        """Clear away all that is here of it, however often that takes."""
        while True:
            task = self._control.tasks.new(RECEIVE, vm=arrival.vm, private=True)
            try:
                await self._perform(migrate.give_up(arrival.machine), task)
                transaction = self._crossings.transaction()
                self._crossings.drop(transaction, arrival.id)
                await transaction.commit()
                break
            except Fault as fault:
                log.warning("what is left of VM %s cannot be cleared away yet: %s", arrival.vm, fault)
            finally:
                self._control.tasks.drop(task)
            await asyncio.sleep(_AGAIN_S)
        self._control.machines.arrived(arrival.vm)
        self._arrivals.pop(arrival.id, None)
        arrival.tell()

    async def _perform(self, plan: Plan, task: Task) -> None:
        await perform(plan, self._control.context(task, self._quietly))

    def _quietly(self, kind: Kind, id: str, change: Change) -> None:
        """Nobody is told of a machine that nobody knows of."""
        if id.partition(".")[0] in self._control.machines:
            self._control.announce(kind, id, change)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        running = asyncio.create_task(work, context=Context())  # not that of the request by which we heard of it
        self._work.add(running)
        running.add_done_callback(self._work.discard)
