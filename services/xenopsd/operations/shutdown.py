# SPDX-License-Identifier: Apache-2.0
"""Stop a machine, at once or cleanly."""

from xenopsd.atoms import hook, vm
from xenopsd.atoms.hook import Hook, Reason
from xenopsd.atoms.kind import deactivate_all, unplug_all
from xenopsd.backends.port import ShutdownReason
from xenopsd.engine.plan import NOTHING, BestEffort, Pivot, Plan, serial
from xenopsd.operations.operation import Operation
from xenopsd.store.machine import Machine


class Shutdown(Operation, frozen=True, kw_only=True, tag="VM.shutdown"):
    """Without a delay the domain is destroyed, and what is suspended too; with one, the guest has time to stop by itself."""

    delay: float | None = None

    def plan(self, machine: Machine) -> Plan:
        clean = self.delay is not None
        reason = Reason.CLEAN_SHUTDOWN if clean else Reason.HARD_SHUTDOWN
        # The guest is asked before the pre-shutdown hook runs: a refusal then leaves nothing to put back.
        return serial(
            ask(machine, ShutdownReason.POWEROFF, self.delay),
            power_off(machine, reason),
            vm.DiscardImage(machine.vm),
        )


def ask(machine: Machine, reason: ShutdownReason, delay: float | None) -> Plan:
    """Let the guest stop by itself, when it is given time for that."""
    return NOTHING if delay is None else vm.AskToShutDown(machine.vm, reason, delay)


def power_off(machine: Machine, reason: Reason) -> Plan:
    """Take everything away; the machine ends Halted, or Suspended when an image of it was saved just before."""
    return serial(
        hook.Run(Hook.PRE_SHUTDOWN, machine.vm, reason),
        dismantle(machine),
        deactivate_all(machine, life_goes_on=reason is Reason.SUSPEND),
        hook.Run(Hook.POST_DESTROY, machine.vm, reason),
    )


def dismantle(machine: Machine) -> Plan:
    """From a domain to none; its devices stay marked as meant to be plugged."""
    return serial(
        Pivot("the guest's memory is lost from here"),
        vm.Condemn(machine.vm),
        BestEffort(vm.Pause(machine.vm)),
        vm.DestroyDeviceModel(machine.vm),
        unplug_all(machine),
        vm.Destroy(machine.vm),
    )
