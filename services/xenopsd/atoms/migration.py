# SPDX-License-Identifier: Apache-2.0
"""Steps of a migration, at both ends. Whose the machine is, is decided by `GiveAway` alone."""

import logging
from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from xenops.errors import Busy, DoesNotExist, Migrated, MigrationFailed, ServiceFault
from xenops.events import Change, Kind
from xenops.interfaces.xenops import Migration
from xenops.types.metadata import Metadata
from xenops.types.vm import PowerState, Vm
from xenopsd.atoms.context import Context
from xenopsd.atoms.progress import share_of
from xenopsd.engine.plan import Atom
from xenopsd.migration.arrival import Arrival
from xenopsd.migration.departure import Departure
from xenopsd.migration.handshake import Message
from xenopsd.migration.station import to_the_end
from xenopsd.store.machine import Machine
from xenopsd.store.migrations import Crossing, Phase

log = logging.getLogger(__name__)

_HOURS_S = 6 * 3600.0
_ANSWER_S = 4.0  # that a destination has to unpause before it answers that the machine is its own


def _departure(cx: Context, vm: Vm) -> Departure:
    return cx.migration.departures[vm.id]


@dataclass(frozen=True)
class AssertMovable(Atom):
    """Refuse what cannot be moved before anybody hears of it."""

    machine: Metadata

    async def do(self, cx: Context) -> None:
        vm = self.machine.vm
        bound = [f"PCI device {it.id} ({it.address})" for it in self.machine.pcis]
        bound += [f"USB device {it.id} (bus {it.hostbus}, port {it.hostport})" for it in self.machine.vusbs]
        if bound:
            raise MigrationFailed(
                vm.id, f"it has what stays with its host, and must be removed first: {', '.join(bound)}"
            )
        if (await cx.backend.vm.states([vm]))[0].nomigrate:
            raise MigrationFailed(vm.id, "its platformdata has nomigrate, which says that it must not be")


@dataclass(frozen=True)
class Offer(Atom):
    """Ask the destination whether it takes the machine; it makes room at once."""

    patience_s: ClassVar[float] = 0.0
    machine: Metadata
    to: str
    compress: bool

    async def do(self, cx: Context) -> None:
        vm = self.machine.vm
        paused = await cx.backend.vm.power_state(vm) is PowerState.PAUSED
        departure = cx.migration.depart(vm.id, self.to, cx.task, compress=self.compress)
        try:
            await departure.offer(cx.migration.queue, self.machine, paused=paused)
        except BaseException:
            await self.undo(cx)
            raise

    async def undo(self, cx: Context) -> None:
        departure = _departure(cx, self.machine.vm)
        if cx.migration.given(self.machine.vm.id) is not None:
            return
        departure.keep()
        cx.migration.departures.pop(self.machine.vm.id, None)
        await departure.tell_kept()

    @property
    def about(self) -> str:
        return f"to {self.to}"


@dataclass(frozen=True)
class Send(Atom):
    """Send the memory while the guest runs, then suspend it and send the rest; it is in place still, and can go on."""

    weight: ClassVar[float] = 10.0
    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm

    async def do(self, cx: Context) -> None:
        departure = _departure(cx, self.vm)
        line = await departure.connect()

        async def before_suspend() -> None:
            cx.task.checkpoint()
            departure.stops()

        try:
            rounds = await cx.backend.vm.migrate_send(self.vm, line, share_of(cx, self.weight), before_suspend)
            try:
                await line.finish()
            except BaseException:
                await self.undo(cx)
                raise
            departure.sent(rounds, line.bytes_sent)
        finally:
            line.close()
        cx.changed(Kind.VM, self.vm.id)

    async def undo(self, cx: Context) -> None:
        if cx.migration.given(self.vm.id) is not None:
            return  # it was decided while something else went wrong: the guest never runs here again
        _departure(cx, self.vm).keep()
        await cx.backend.vm.resume(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class AwaitPrepared(Atom):
    """Wait until the destination could run the machine at once, whatever happens to it."""

    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm

    async def do(self, cx: Context) -> None:
        await _departure(cx, self.vm).hear_prepared()


@dataclass(frozen=True)
class GiveAway(Atom):
    """Decide: one durable write, before which the machine is ours and after which it is the destination's."""

    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm

    async def do(self, cx: Context) -> None:
        departure = _departure(cx, self.vm)
        cx.task.checkpoint()
        cx.task.pass_pivot()
        if departure.end.would(Message.PREPARED) is None:
            raise MigrationFailed(self.vm.id, "it was given up meanwhile")
        crossings, to = cx.migration.crossings, departure.to
        transaction = crossings.transaction()
        crossings.put(transaction, Crossing(id=departure.id, vm=self.vm.id, peer=to, phase=Phase.GIVEN))

        def given() -> None:
            departure.end.on(Message.PREPARED)
            cx.machines.barred[self.vm.id] = lambda: Migrated(self.vm.id, to)

        transaction.then(given)
        await to_the_end(transaction.commit())
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Deliver(Atom):
    """Tell the destination that the machine is its own, until it says that it knows; `once`, in the checks that follow."""

    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm
    once: bool = False

    async def do(self, cx: Context) -> None:
        given = cx.migration.given(self.vm.id)
        if given is None:
            return

        async def tell(peer: Migration) -> bool:
            return await peer.commit(given.id, timeout=_ANSWER_S)

        peers, patience_s = cx.migration.peers, 0.0 if self.once else cx.migration.patience_s
        try:
            running = await peers.afresh(self.vm.id, given.peer, tell, patience_s=patience_s)
        except (MigrationFailed, ServiceFault, Busy, DoesNotExist) as fault:
            raise MigrationFailed(
                self.vm.id, f"it was given to {given.peer}, which has not confirmed that yet and is told again: {fault}"
            ) from None
        departure = cx.migration.departures.pop(self.vm.id, None)
        if departure is not None:
            departure.end.on(Message.OWNED)
            cx.task.result = departure.result(running=running)


@dataclass(frozen=True)
class Forget(Atom):
    """The machine's record goes, with the note where the machine went."""

    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm

    async def do(self, cx: Context) -> None:
        given = cx.migration.given(self.vm.id)
        if given is None:
            return
        await cx.backend.vm.forget(self.vm)
        async with cx.machines.barring(self.vm.id) as revision:
            gone = revision.remove()
            crossing = Crossing(id=given.id, vm=given.vm, peer=given.peer, phase=Phase.GONE)
            cx.migration.crossings.put(revision, crossing)
            revision.then(lambda: cx.machines.arrived(self.vm.id))
            await to_the_end(revision.commit())
        cx.migration.departures.pop(self.vm.id, None)
        for kind, dev in gone:
            cx.announce(kind, f"{self.vm.id}.{dev}", Change.REMOVED)
        cx.announce(Kind.VM, self.vm.id, Change.REMOVED)


@dataclass(frozen=True)
class Receive(Atom):
    """Build the created domain's memory from the stream; what was built goes with the domain."""

    weight: ClassVar[float] = 10.0
    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = _HOURS_S
    machine: Metadata
    id: str

    async def do(self, cx: Context) -> None:
        arrival = cx.migration.arrivals[self.id]
        assert arrival.expected is not None
        within_s = cx.migration.streams.stall_s
        if not await arrival.until(arrival.expected.line.done, within_s):
            raise MigrationFailed(self.machine.vm.id, f"nobody came with its memory in {within_s:g} s")
        line = arrival.expected.line.result()
        try:
            await cx.backend.vm.migrate_receive(self.machine, line, share_of(cx, self.weight))
        finally:
            line.close()


@dataclass(frozen=True)
class Prepare(Atom):
    """Durably: from here on only the source may give it up."""

    timeout_s: ClassVar[float] = _HOURS_S
    arrival: Arrival

    async def do(self, cx: Context) -> None:
        arrival, crossings = self.arrival, cx.migration.crossings
        if arrival.end.would(Message.MEMORY) is not None:
            transaction = crossings.transaction()
            crossings.put(
                transaction, replace(arrival.crossing, phase=Phase.PREPARED, metadata=arrival.machine.metadata())
            )
            transaction.then(lambda: _prepared(arrival))
            await to_the_end(transaction.commit())
        if arrival.end.would(Message.COMMIT) is None:
            raise MigrationFailed(arrival.vm, "its source gave it up")


@dataclass(frozen=True)
class TakeOver(Atom):
    """Durably: the machine is ours, and registered."""

    timeout_s: ClassVar[float] = _HOURS_S
    arrival: Arrival

    async def do(self, cx: Context) -> None:
        arrival, machine = self.arrival, self.arrival.machine
        if arrival.end.would(Message.COMMIT) is None or machine.id in cx.machines:
            return
        async with cx.machines.barring(machine.id) as revision:
            revision.put_metadata(machine.metadata())
            cx.migration.crossings.put(revision, replace(arrival.crossing, phase=Phase.OWNED, metadata=None))
            revision.then(lambda: _owned(cx, arrival))
            await to_the_end(revision.commit())
        cx.announce(Kind.VM, machine.id, Change.ADDED)
        for kind, devices in machine.devices.items():
            for dev in devices:
                cx.announce(kind, f"{machine.id}.{dev}", Change.ADDED)


@dataclass(frozen=True)
class Tell(Atom):
    """It is what it was: the source, which waits for that, may hear it."""

    arrival: Arrival

    async def do(self, cx: Context) -> None:
        self.arrival.runs = True
        self.arrival.tell()
        cx.changed(Kind.VM, self.arrival.vm)


@dataclass(frozen=True)
class Settle(Atom):
    """Nothing is owed to the machine any more; its migration is only kept to answer a source that asks again."""

    vm: Vm
    crossing: Crossing

    async def do(self, cx: Context) -> None:
        transaction = cx.migration.crossings.transaction()
        cx.migration.crossings.put(transaction, replace(self.crossing, phase=Phase.SETTLED, metadata=None))
        await to_the_end(transaction.commit())


def _prepared(arrival: Arrival) -> None:
    arrival.end.on(Message.MEMORY)
    arrival.tell()


def _owned(cx: Context, arrival: Arrival) -> None:
    active = _active(arrival.machine)
    cx.machines.arrived(arrival.vm)
    for kind, dev in active:
        cx.machines.set_active(kind, arrival.vm, dev, True)
    arrival.end.on(Message.COMMIT)
    arrival.tell()


def _active(machine: Machine) -> list[tuple[Kind, str]]:
    return [(kind, dev) for kind, each in machine.devices.items() for dev, device in each.items() if device.active]
