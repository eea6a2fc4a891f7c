# SPDX-License-Identifier: Apache-2.0
"""Save a machine's memory: to stop it (suspend), or to let it run on (checkpoint)."""

from typing import ClassVar

from xenops.types.disk import Disk
from xenopsd.atoms import hook, vm
from xenopsd.atoms.hook import Hook, Reason
from xenopsd.engine.plan import Plan, serial
from xenopsd.operations.life import needed
from xenopsd.operations.operation import Operation
from xenopsd.operations.shutdown import power_off
from xenopsd.store.machine import Machine


class Suspend(Operation, frozen=True, kw_only=True, tag="VM.suspend"):
    """Write the memory image and destroy the domain; the machine ends Suspended."""

    needs: ClassVar = needed("VM.suspend")
    disk: Disk

    def plan(self, machine: Machine) -> Plan:
        return serial(
            hook.Run(Hook.PRE_SUSPEND, machine.vm, Reason.SUSPEND),
            vm.Save(machine.vm, self.disk),
            power_off(machine, Reason.SUSPEND),
        )


class Checkpoint(Operation, frozen=True, kw_only=True, tag="VM.checkpoint"):
    """Write the memory image and wake the domain again."""

    needs: ClassVar = needed("VM.checkpoint")
    disk: Disk

    def plan(self, machine: Machine) -> Plan:
        return serial(vm.Save(machine.vm, self.disk), vm.Resume(machine.vm))


class FastResume(Operation, frozen=True, kw_only=True, tag="VM.fast_resume"):
    """Wake a domain that was suspended in place."""

    def plan(self, machine: Machine) -> Plan:
        return vm.Resume(machine.vm)
