# SPDX-License-Identifier: Apache-2.0
"""An operator decides about a machine that was given to a destination that does not come back."""

import logging

from xenops.errors import DoesNotExist, MigrationFailed, ServiceFault
from xenops.interfaces.xenops import Migration
from xenopsd.backends.port import DomainAction
from xenopsd.control import Control
from xenopsd.engine.perform import perform
from xenopsd.migration.handshake import Event
from xenopsd.operations.migrate import leave
from xenopsd.store.migrations import Crossing

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

    await control.exclusively(vm, RESOLVE, decide)
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
    task = control.tasks.new(RESOLVE, vm=given.vm, private=True)
    try:
        await perform(leave(control.machines.find(given.vm)), control.context(task))
    finally:
        control.tasks.drop(task)
