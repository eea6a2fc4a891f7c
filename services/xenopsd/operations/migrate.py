# SPDX-License-Identifier: Apache-2.0
"""Move a running machine to another xenopsd: the plans of both ends, with a point of no return each.

The source's is one durable write, `GiveAway`; the destination's is `Prepare`, after which it does what the source says.
"""

from typing import ClassVar

from xenops.events import Kind
from xenops.types.vm import PowerState
from xenopsd.atoms import hook, migration, pci, vm
from xenopsd.atoms.hook import Hook, Reason
from xenopsd.atoms.kind import deactivate_all, plug_after_device_model, plug_before_device_model
from xenopsd.engine.plan import BestEffort, Pivot, Plan, serial
from xenopsd.migration.arrival import Arrival
from xenopsd.operations.operation import Operation
from xenopsd.operations.shutdown import dismantle
from xenopsd.store.machine import Machine


class Migrate(Operation, frozen=True, kw_only=True, tag="VM.migrate"):
    """The source's plan: the guest runs until the last of its memory, and goes on here at once when anything fails."""

    needs: ClassVar = (PowerState.RUNNING,)
    destination: str
    compress: bool = False

    def plan(self, machine: Machine) -> Plan:
        return serial(
            hook.Run(Hook.PRE_MIGRATE, machine.vm, Reason.SOURCE),
            migration.Offer(machine.metadata(), self.destination, self.compress),
            migration.Send(machine.vm),
            migration.AwaitPrepared(machine.vm),
            migration.GiveAway(machine.vm),
            Pivot("the machine is the destination's from here"),
            migration.Deliver(machine.vm),
            leave(machine),
        )


def finish(machine: Machine) -> Plan:
    """What is left to do for a machine that was given away, once its destination answers; any number of times."""
    return serial(migration.Deliver(machine.vm, once=True), leave(machine))


def leave(machine: Machine) -> Plan:
    """Nothing of a machine that is somewhere else stays here."""
    return serial(
        dismantle(machine),
        deactivate_all(machine, life_goes_on=True),
        BestEffort(hook.Run(Hook.POST_DESTROY, machine.vm, Reason.SOURCE)),
        migration.Forget(machine.vm),
    )


def arrive(arrival: Arrival) -> Plan:
    """The destination's plan, up to where the source decides: the domain is whole, paused, and could run at once."""
    machine = arrival.machine
    metadata = machine.metadata()
    return serial(
        *(pci.Dequarantine(machine.vm, it) for it in machine.of(Kind.PCI)),
        hook.Run(Hook.PRE_MIGRATE, machine.vm, Reason.DESTINATION),
        vm.Create(metadata),
        migration.Receive(metadata, arrival.id),
        plug_before_device_model(machine, restoring=True),
        vm.CreateDeviceModel(metadata, restoring=True),
        plug_after_device_model(machine),
        vm.Complete(machine.vm),
        migration.Prepare(arrival),
        Pivot("only the source may give it up from here"),
    )


def settle(arrival: Arrival) -> Plan:
    """The source has decided: the machine is ours, and runs."""
    return serial(
        migration.TakeOver(arrival),
        vm.Unpause(arrival.machine.vm),
        migration.Tell(arrival),
        BestEffort(hook.Run(Hook.POST_MIGRATE, arrival.machine.vm, Reason.DESTINATION)),
        migration.Settle(arrival.machine.vm, arrival.crossing),
    )


def give_up(machine: Machine) -> Plan:
    """The source keeps it: nothing of it stays here."""
    return serial(dismantle(machine), deactivate_all(machine, life_goes_on=True))
