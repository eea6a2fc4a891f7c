# SPDX-License-Identifier: Apache-2.0
"""Save a machine's memory: to stop it (suspend) and bring it back (resume), or to let it run on (checkpoint)."""

from typing import ClassVar

from xenops.events import Kind
from xenops.types.disk import Disk
from xenopsd.atoms import hook, pci, vm
from xenopsd.atoms.hook import Hook, Reason
from xenopsd.atoms.kind import plug_after_device_model, plug_before_device_model
from xenopsd.engine.plan import NOTHING, Pivot, Plan, serial
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


class Resume(Operation, frozen=True, kw_only=True, tag="VM.resume"):
    """Create a domain, fill it from the image, plug every device; it ends Paused or Running.

    Until it is whole the image stays the truth: a failure leaves the machine Suspended.
    """

    needs: ClassVar = needed("VM.resume")
    disk: Disk
    paused: bool = True

    def plan(self, machine: Machine) -> Plan:
        metadata = machine.metadata()
        return serial(
            *(pci.Dequarantine(machine.vm, it) for it in machine.of(Kind.PCI)),
            vm.Create(metadata),
            hook.Run(Hook.PRE_RESUME, machine.vm),
            vm.Restore(metadata, self.disk),
            plug_before_device_model(machine, restoring=True),
            vm.CreateDeviceModel(metadata, restoring=True),
            plug_after_device_model(machine),
            Pivot("the domain is whole and survives us from here"),
            vm.Complete(machine.vm),
            hook.Run(Hook.POST_RESUME, machine.vm),
            NOTHING if self.paused else vm.Unpause(machine.vm),
        )
