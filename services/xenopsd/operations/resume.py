# SPDX-License-Identifier: Apache-2.0
"""Bring a suspended machine back."""

from typing import ClassVar

from xenops.events import Kind
from xenops.types.disk import Disk
from xenopsd.atoms import hook, pci, vm
from xenopsd.atoms.hook import Hook
from xenopsd.atoms.kind import plug_after_device_model, plug_before_device_model
from xenopsd.engine.plan import NOTHING, Pivot, Plan, serial
from xenopsd.operations.life import needed
from xenopsd.operations.operation import Operation
from xenopsd.store.machine import Machine


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
