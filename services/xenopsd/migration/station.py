# SPDX-License-Identifier: Apache-2.0
"""What is on its way from here and to here; steps find their migration in it, and peers are answered from it."""

import asyncio
from collections.abc import Awaitable
from functools import partial

from xenops.errors import Busy, DoesNotExist, Fault, Migrated
from xenops.interfaces.xenops.migration import Decision
from xenopsd.engine.tasks import Task
from xenopsd.migration.arrival import Arrival
from xenopsd.migration.departure import Departure
from xenopsd.migration.door import Door, Streams
from xenopsd.migration.handshake import SOURCE, End, Message, Source
from xenopsd.migration.move import Move
from xenopsd.migration.peers import Peers
from xenopsd.store.machine import Machine, twin_of
from xenopsd.store.machines import Machines
from xenopsd.store.migrations import Crossing, Crossings, Name, Phase

_STATES = {Phase.GIVEN: Source.GIVEN, Phase.GONE: Source.GONE}
_ANSWERS = {Message.COMMIT: Decision.GIVEN, Message.ABORT: Decision.KEPT}


class Station:
    """All migrations of one xenopsd."""

    def __init__(self, queue: str, crossings: Crossings, streams: Streams, *, patience_s: float) -> None:
        self.queue, self.crossings, self.streams, self.patience_s = queue, crossings, streams, patience_s
        self.peers, self.door = Peers(), Door(streams)
        self.departures: dict[str, Departure] = {}  # by machine
        self.arrivals: dict[str, Arrival] = {}  # by migration
        self.moves: dict[str, Move] = {}  # by machine, those within this xenopsd

    def attach(self, machines: Machines) -> None:
        """What was given away may not be touched, and who asks for what has left is told where it is."""

        def absent(vm: str) -> Fault:
            left = self.crossings.left(vm)
            return DoesNotExist("VM", vm) if left is None else Migrated(vm, left.peer)

        machines.absent = absent
        for vm in self.crossings.given():
            machines.barred[vm] = partial(absent, vm)
        for crossing in self.crossings:
            if crossing.phase in (Phase.BESIDE, Phase.REPLACING):
                expect_twin(machines, crossing)
            if crossing.phase is Phase.REPLACING:
                machines.barred[crossing.vm] = partial(being_replaced, crossing.vm)

    def depart(self, vm: str, to: str, task: Task, *, compress: bool) -> Departure:
        """A machine sets out; its migration's id is never used again, as its task's is not."""
        id = str(Name(self.queue, task.id, to, vm))
        departure = Departure(id, vm, to, self.peers, self.streams, compress=compress, patience_s=self.patience_s)
        self.departures[vm] = departure
        return departure

    def given(self, vm: str) -> Crossing | None:
        """The migration by which the machine was given away, while its destination has not confirmed that."""
        crossing = self.crossings.left(vm)
        return crossing if crossing is not None and crossing.phase is Phase.GIVEN else None

    def decision(self, id: str, vm: str) -> Decision:
        """Whose the machine is; what we do not know was given up."""
        departure, crossing = self.departures.get(vm), self.crossings.find(id)
        if crossing is not None:
            turn = End(SOURCE, _STATES.get(crossing.phase, Source.KEPT)).on(Message.ASK)
        elif departure is not None and departure.id == id:
            turn = departure.end.on(Message.ASK)
        else:
            turn = End(SOURCE, Source.KEPT).on(Message.ASK)
        return _ANSWERS[turn.sends[0]] if turn is not None else Decision.UNDECIDED


def expect_twin(machines: Machines, crossing: Crossing) -> None:
    """The machine's second domain is known under a handle of its own, which nobody else may take."""
    assert crossing.metadata is not None
    machines.expect(Machine.from_metadata(twin_of(crossing.metadata)), partial(being_replaced, crossing.vm))


def being_replaced(vm: str) -> Fault:
    """Why a machine cannot be touched now."""
    return Busy(f"VM {vm}, whose new domain takes the place of the old one,", 1000)


async def to_the_end(work: Awaitable[None]) -> None:
    """See a write to its end even when we are cancelled meanwhile; then the cancel comes at the next wait instead.

    Whoever asked knows then whether it was written, which is all that matters.
    """
    writing, cancelled = asyncio.ensure_future(work), False
    while not writing.done():
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            cancelled = True
    writing.result()
    if cancelled and (current := asyncio.current_task()) is not None:
        current.cancel()
