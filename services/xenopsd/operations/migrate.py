# SPDX-License-Identifier: Apache-2.0
"""Move a running machine to another xenopsd: the plans of both ends, with a point of no return each.

The source's is one durable write, `GiveAway`; the destination's is `Prepare`, after which it does what the source says. Within one
xenopsd there is one plan, and one durable write, `Decide`.
"""

from typing import ClassVar

from xenops.events import Kind
from xenops.types.disk import Disk
from xenops.types.metadata import Metadata
from xenops.types.network import Network
from xenops.types.vm import Vm
from xenopsd.atoms import hook, migration, pci, relocation, vm
from xenopsd.atoms.hook import Hook, Reason
from xenopsd.atoms.kind import deactivate_all, plug_after_device_model, plug_before_device_model
from xenopsd.engine.plan import NOTHING, BestEffort, Pivot, Plan, serial
from xenopsd.migration.arrival import Arrival
from xenopsd.operations.life import LIVE
from xenopsd.operations.operation import Operation
from xenopsd.operations.shutdown import dismantle
from xenopsd.store.machine import Machine, redirected, twin_of

HERE = "localhost"  # as a destination: the same xenopsd


class Migrate(Operation, frozen=True, kw_only=True, tag="VM.migrate"):
    """The source's plan: the guest runs until the last of its memory, and goes on here at once when anything fails.

    One that is paused takes no step at either end.
    """

    needs: ClassVar = LIVE
    destination: str  # a queue, or `HERE`
    compress: bool = False
    disks: dict[str, Disk] = {}
    networks: dict[str, Network] = {}

    @property
    def lasts(self) -> bool:
        return self.destination == HERE

    def plan(self, machine: Machine) -> Plan:
        shall_be = redirected(machine.metadata(), self.disks, self.networks)
        if self.destination == HERE:
            return relocate(machine, shall_be)
        return serial(
            migration.AssertMovable(machine.metadata()),
            hook.Run(Hook.PRE_MIGRATE, machine.vm, Reason.SOURCE),
            migration.Offer(shall_be, self.destination, self.compress),
            migration.Send(machine.vm),
            migration.AwaitPrepared(machine.vm),
            migration.GiveAway(machine.vm),
            Pivot("the machine is the destination's from here"),
            migration.Deliver(machine.vm),
            leave(machine),
        )


def relocate(machine: Machine, shall_be: Metadata) -> Plan:
    """To a new domain of the same xenopsd; a failure before the decision leaves the old one as it was."""
    metadata = twin_of(shall_be)
    twin = Machine.from_metadata(metadata)
    return serial(
        migration.AssertMovable(machine.metadata()),
        hook.Run(Hook.PRE_MIGRATE, machine.vm, Reason.SOURCE),
        hook.Run(Hook.PRE_MIGRATE, machine.vm, Reason.DESTINATION),
        relocation.Begin(shall_be),
        vm.Create(metadata),
        relocation.Transfer(machine.vm, metadata),
        plug_before_device_model(twin, restoring=True),
        vm.CreateDeviceModel(metadata, restoring=True),
        plug_after_device_model(twin),
        vm.Complete(twin.vm),
        relocation.Decide(machine.vm),
        Pivot("the machine is the new domain from here"),
        take_place(machine, twin.vm),
        BestEffort(hook.Run(Hook.POST_MIGRATE, machine.vm, Reason.DESTINATION)),
    )


def take_place(machine: Machine, twin: Vm) -> Plan:
    """It is decided: the old domain goes, and the new one is the machine's; any number of times, up to `TakePlace`."""
    return serial(
        dismantle(machine),
        BestEffort(hook.Run(Hook.POST_DESTROY, machine.vm, Reason.SOURCE)),
        relocation.TakePlace(machine.vm, twin),
        go_on(machine),
    )


def go_on(machine: Machine) -> Plan:
    """The new domain is the machine's already."""
    return serial(relocation.GoOn(machine.vm), relocation.Settle(machine.vm))


def without_twin(machine: Machine, metadata: Metadata) -> Plan:
    """It was not decided: nothing of a second domain stays."""
    return serial(give_up(Machine.from_metadata(twin_of(metadata))), relocation.Drop(machine.vm))


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
    """The source has decided: the machine is ours, and runs, or stays paused."""
    return serial(
        migration.TakeOver(arrival),
        NOTHING if arrival.crossing.paused else vm.Unpause(arrival.machine.vm),
        migration.Tell(arrival),
        BestEffort(hook.Run(Hook.POST_MIGRATE, arrival.machine.vm, Reason.DESTINATION)),
        migration.Settle(arrival.machine.vm, arrival.crossing),
    )


def give_up(machine: Machine) -> Plan:
    """The source keeps it: nothing of it stays here."""
    return serial(dismantle(machine), deactivate_all(machine, life_goes_on=True))
