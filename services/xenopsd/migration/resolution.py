# SPDX-License-Identifier: Apache-2.0
"""Whose a machine is, where records alone do not say: a destination does not come back, or the disk has damaged a record.

In the first case an operator decides. In the second the migration's id and the world tell enough for exactly one host to end with it:

    at the source       the machine is not registered  -> it has gone
                        it runs, or has come back      -> that migration is over
                        else                           -> it was given away, and the destination is told again
    at the destination  the machine is registered      -> it is ours, and stays paused if it had not run yet
                        else                           -> it was not ours yet: its domain goes
    within one xenopsd  the old domain is whole        -> the new one goes
                        else                           -> the new one takes its place, and stays paused
"""

import logging

from xenops.errors import DoesNotExist, Fault, MigrationFailed, ServiceFault
from xenops.interfaces.xenops import Migration
from xenops.types.vm import Direct, PowerState, Pv, Vm
from xenopsd.backends.port import DomainAction
from xenopsd.control import Control
from xenopsd.engine.perform import perform
from xenopsd.engine.plan import Plan
from xenopsd.migration.handshake import Event
from xenopsd.operations.migrate import give_up, leave
from xenopsd.store.machine import Machine, twin_of
from xenopsd.store.migrations import Crossing, Name, Phase, parse

log = logging.getLogger(__name__)

RESOLVE = "VM.migrate_resolve"


async def resolve(control: Control, vm: str, *, keep: bool) -> None:
    """Keep it, or let it go. Raises `DoesNotExist`, `MigrationFailed`."""
    control.machines.find(vm)
    given = control.migration.given(vm)
    if given is None:
        raise DoesNotExist("undecided migration of VM", vm)
    await _refuse_while_it_answers(control, given)

    async def decide() -> None:
        if control.migration.given(vm) is not given:
            raise MigrationFailed(vm, f"{given.peer} has it by now")
        await (_keep(control, given) if keep else _let_go(control, given))
        told = "goes on here" if keep else "is forgotten here"
        await control.conclude(vm, MigrationFailed(vm, f"an operator said that {given.peer} is lost, and it {told}"))

    await control.turns.take(vm, RESOLVE, decide)
    control.check(vm)


async def _refuse_while_it_answers(control: Control, given: Crossing) -> None:
    async def ask(peer: Migration) -> str:
        return (await peer.query(given.id)).value

    try:
        standing = await control.migration.peers.once(given.peer, ask)
    except (ServiceFault, DoesNotExist) as fault:
        log.warning("an operator decides whose VM %s is: %s", given.vm, fault)
        return
    control.check(given.vm)
    raise MigrationFailed(given.vm, f"{given.peer} answers ({standing}), and is told again that the machine is its own")


async def _keep(control: Control, given: Crossing) -> None:
    machine = control.machines.find(given.vm)
    if await control.backend.vm.get_action(machine.vm) is DomainAction.DISCARD:
        raise MigrationFailed(
            given.vm, f"{given.peer} had confirmed that it has it, and what is left here is taken away"
        )
    transaction = control.migration.crossings.transaction()
    control.migration.crossings.drop(transaction, given.id)
    transaction.then(lambda: _reclaimed(control, given.vm))
    await transaction.commit()


def _reclaimed(control: Control, vm: str) -> None:
    departure = control.migration.departures.pop(vm, None)
    if departure is not None:
        departure.end.on(Event.RECLAIM)
    control.machines.arrived(vm)


async def _let_go(control: Control, given: Crossing) -> None:
    await _perform(control, given.vm, leave(control.machines.find(given.vm)))


async def mend(control: Control) -> None:
    """At start-up, before anything is checked: find out what damaged records said."""
    crossings = control.migration.crossings
    for id in tuple(crossings.damaged):
        name = parse(id)
        if name is None:
            log.critical("of the damaged migration %r nothing is known, not even its machine: look at both ends", id)
            continue
        try:
            mended = await _truth(control, id, name)
        except Fault as fault:
            log.critical("VM %s cannot be cleared up after its damaged migration; restart us: %s", name.vm, fault)
            continue
        crossings.mend(id, mended)
        told = "over" if mended is None else mended.phase.value
        log.critical("the migration of VM %s from %s to %s counts as %s", name.vm, name.source, name.to, told)
    control.migration.attach(control.machines)


async def _truth(control: Control, id: str, name: Name) -> Crossing | None:
    ours, registered = control.migration.queue, name.vm in control.machines
    if name.source == name.to:
        return await _within(control, id, name) if registered else None
    if name.source == ours:
        phase = await _at_source(control, name, registered=registered)
        return None if phase is None else Crossing(id=id, vm=name.vm, peer=name.to, phase=phase)
    if registered:
        return Crossing(id=id, vm=name.vm, peer=name.source, phase=Phase.SETTLED)
    await _perform(
        control, name.vm, give_up(Machine(Vm(id=name.vm, name=name.vm, ty=Pv(boot=Direct(kernel=""))), seq=0))
    )
    return None


async def _at_source(control: Control, name: Name, *, registered: bool) -> Phase | None:
    crossings = control.migration.crossings
    if not registered:
        return Phase.GONE if crossings.left(name.vm) is None else None
    if any(each.phase in (Phase.OWNED, Phase.SETTLED) for each in crossings.of_vm(name.vm)):
        return None
    vm = control.machines.find(name.vm).vm
    live = await control.backend.vm.power_state(vm) in (PowerState.RUNNING, PowerState.PAUSED)
    return None if live and await control.backend.vm.get_action(vm) is not DomainAction.DISCARD else Phase.GIVEN


async def _within(control: Control, id: str, name: Name) -> Crossing | None:
    machine = control.machines.find(name.vm)
    metadata = machine.metadata()
    old, new = await control.backend.vm.states([machine.vm, twin_of(metadata).vm])
    if not new.domids:
        return None
    whole = old.domids and await control.backend.vm.get_action(machine.vm) is not DomainAction.DISCARD
    phase = Phase.BESIDE if whole else Phase.REPLACING
    return Crossing(id=id, vm=name.vm, peer=name.to, phase=phase, metadata=metadata, paused=True)


async def _perform(control: Control, vm: str, plan: Plan) -> None:
    task = control.tasks.new(RESOLVE, vm=vm, private=True)
    try:
        await perform(plan, control.context(task))
    finally:
        control.tasks.drop(task)
