# SPDX-License-Identifier: Apache-2.0
"""Steps of a migration within this xenopsd: a second domain is made beside the first, and takes its place.

Both ends have one store, so that there is nothing to agree on: `Decide` is one durable write. Before it the first domain is the
machine's and the second is cleared away, after it the other way round; `check` does the rest when we do not come to it.
"""

import asyncio
import logging
from dataclasses import dataclass
from typing import ClassVar

from msgspec.structs import replace

from xenops.errors import AlreadyExists, Busy, Fault, MigrationFailed
from xenops.events import Kind
from xenops.types.metadata import Metadata
from xenops.types.vm import PowerState, Vm
from xenopsd.atoms.context import Context
from xenopsd.atoms.progress import share_of
from xenopsd.engine.plan import Atom
from xenopsd.migration.move import Move, Pipe
from xenopsd.migration.station import being_replaced, expect_twin, to_the_end
from xenopsd.store.machine import Machine, twin_of
from xenopsd.store.migrations import Crossing, Name, Phase

log = logging.getLogger(__name__)

_HOURS_S = 6 * 3600.0
_PLUGGED = (Kind.VBD, Kind.VIF, Kind.VGPU)  # those whose marks say that they are meant to be


@dataclass(frozen=True)
class Begin(Atom):
    """Durably: there may be a second domain from here on, which the next life of ours must clear away."""

    machine: Metadata  # as it shall be

    async def do(self, cx: Context) -> None:
        vm, crossings = self.machine.vm, cx.migration.crossings
        twin = twin_of(self.machine).vm
        if crossings.doubled(vm.id) is not None:
            raise Busy(f"VM {vm.id}, of whose last migration something is still cleared away,", 1000)
        if twin.id in cx.machines:
            raise AlreadyExists("VM", twin.id)
        paused = await cx.backend.vm.power_state(vm) is PowerState.PAUSED
        queue = cx.migration.queue
        crossing = Crossing(
            id=str(Name(queue, cx.task.id, queue, vm.id)),
            vm=vm.id,
            peer=queue,
            phase=Phase.BESIDE,
            metadata=self.machine,
            paused=paused,
        )
        transaction = crossings.transaction()
        crossings.put(transaction, crossing)
        transaction.then(lambda: expect_twin(cx.machines, crossing))
        await to_the_end(transaction.commit())
        cx.migration.moves[vm.id] = Move(queue)

    async def undo(self, cx: Context) -> None:
        crossing = cx.migration.crossings.doubled(self.machine.vm.id)
        if crossing is None or crossing.phase is not Phase.BESIDE:
            return
        cx.migration.moves.pop(crossing.vm, None)
        twin = twin_of(self.machine).vm
        if not (await cx.backend.vm.states([twin]))[0].domids:  # else it is for the check
            await _forget(cx, crossing, twin)


@dataclass(frozen=True)
class Transfer(Atom):
    """From domain to domain while the guest runs, then suspend it and the rest; it is in place still, and can go on."""

    weight: ClassVar[float] = 20.0
    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm
    twin: Metadata

    async def do(self, cx: Context) -> None:
        move, pipe, told = cx.migration.moves[self.vm.id], Pipe(self.vm.id), share_of(cx, self.weight)

        async def before_suspend() -> None:
            cx.task.checkpoint()
            move.stops()

        receiving = asyncio.ensure_future(cx.backend.vm.migrate_receive(self.twin, pipe, lambda done: None))
        receiving.add_done_callback(lambda it: pipe.break_off(_fault(it, self.vm.id)))
        try:
            move.rounds = await cx.backend.vm.migrate_send(self.vm, pipe, told, before_suspend)
            try:
                await pipe.finish()
                await receiving
            except BaseException:
                await self.undo(cx)
                raise
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)
        move.bytes_sent = pipe.bytes_sent
        cx.changed(Kind.VM, self.vm.id)

    async def undo(self, cx: Context) -> None:
        crossing = cx.migration.crossings.doubled(self.vm.id)
        if crossing is not None and crossing.phase is Phase.REPLACING:
            return  # it was decided while something else went wrong: the first domain never runs again
        await cx.backend.vm.resume(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Decide(Atom):
    """One durable write: before it the machine is the first domain, after it the second."""

    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm

    async def do(self, cx: Context) -> None:
        crossings = cx.migration.crossings
        crossing = crossings.doubled(self.vm.id)
        assert crossing is not None
        cx.task.checkpoint()
        cx.task.pass_pivot()
        transaction = crossings.transaction()
        crossings.put(transaction, replace(crossing, phase=Phase.REPLACING))
        transaction.then(lambda: cx.machines.barred.update({self.vm.id: lambda: being_replaced(self.vm.id)}))
        await to_the_end(transaction.commit())


@dataclass(frozen=True)
class TakePlace(Atom):
    """The second domain is the machine's, which has no other any more."""

    vm: Vm
    twin: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.rename(self.twin, self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class GoOn(Atom):
    """The guest goes on, or stays paused if it was."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        crossing = cx.migration.crossings.doubled(self.vm.id)
        if crossing is None or crossing.paused:
            return
        if await cx.backend.vm.power_state(self.vm) is PowerState.PAUSED:
            await cx.backend.vm.unpause(self.vm)
            cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Settle(Atom):
    """Durably: the machine is what it should become, and its second domain's handle is nobody's."""

    timeout_s: ClassVar[float] = _HOURS_S
    vm: Vm

    async def do(self, cx: Context) -> None:
        crossing, move = cx.migration.crossings.doubled(self.vm.id), cx.migration.moves.pop(self.vm.id, None)
        if crossing is None or crossing.metadata is None:
            return
        if move is not None:
            cx.task.result = move.result(running=not crossing.paused)
        metadata, twin = crossing.metadata, twin_of(crossing.metadata).vm
        async with cx.machines.barring(self.vm.id) as revision:
            plugged = [
                (kind, device)
                for kind in _PLUGGED
                for device in Machine.from_metadata(metadata).of(kind)
                if device.id.dev in revision.machine.devices.get(kind, {})
            ]
            for kind, device in plugged:
                revision.put_device(kind, device)
            cx.migration.crossings.put(revision, replace(crossing, phase=Phase.SETTLED, metadata=None))
            revision.then(lambda: cx.machines.arrived(twin.id))
            revision.then(lambda: cx.machines.arrived(self.vm.id))
            await to_the_end(revision.commit())
        for kind, device in plugged:
            cx.machines.set_active(kind, self.vm.id, device.id.dev, True)
            cx.changed(kind, str(device.id))
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Drop(Atom):
    """Nothing is left of the second domain."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        crossing = cx.migration.crossings.doubled(self.vm.id)
        if crossing is not None and crossing.metadata is not None:
            await _forget(cx, crossing, twin_of(crossing.metadata).vm)


async def _forget(cx: Context, crossing: Crossing, twin: Vm) -> None:
    transaction = cx.migration.crossings.transaction()
    cx.migration.crossings.drop(transaction, crossing.id)
    transaction.then(lambda: cx.machines.arrived(twin.id))
    await to_the_end(transaction.commit())


def _fault(receiving: "asyncio.Future[None]", vm: str) -> Fault:
    """Why the far end takes no more."""
    error = None if receiving.cancelled() else receiving.exception()
    if error is not None and not isinstance(error, Fault):
        log.error("VM %s: its second domain takes no more of its memory", vm, exc_info=error)
    return error if isinstance(error, Fault) else MigrationFailed(vm, "its second domain takes no more of its memory")
