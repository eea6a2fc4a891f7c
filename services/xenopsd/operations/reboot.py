# SPDX-License-Identifier: Apache-2.0
"""Stop a machine and start it again."""

from typing import ClassVar

from xenopsd.atoms import hook, vm
from xenopsd.atoms.hook import Hook, Reason
from xenopsd.backends.port import ShutdownReason
from xenopsd.engine.plan import Plan, serial
from xenopsd.operations.life import needed
from xenopsd.operations.operation import Operation
from xenopsd.operations.shutdown import ask, power_off
from xenopsd.operations.start import start
from xenopsd.store.machine import Machine


class Reboot(Operation, frozen=True, kw_only=True, tag="VM.reboot"):
    """At once, or cleanly within a delay; the machine ends Running."""

    needs: ClassVar = needed("VM.reboot")
    reboots: ClassVar = True
    delay: float | None = None

    def plan(self, machine: Machine) -> Plan:
        reason = Reason.HARD_REBOOT if self.delay is None else Reason.CLEAN_REBOOT
        return serial(ask(machine, ShutdownReason.REBOOT, self.delay), reboot(machine, reason))


def reboot(machine: Machine, reason: Reason) -> Plan:
    """From a domain that may go to a new one that runs."""
    return serial(
        power_off(machine, reason),
        hook.Run(Hook.PRE_REBOOT, machine.vm),
        start(machine, force=False),
        vm.Unpause(machine.vm),
    )
