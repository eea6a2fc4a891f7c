# SPDX-License-Identifier: Apache-2.0
"""Start a machine."""

from typing import ClassVar

from xenops.events import Kind
from xenopsd.atoms import hook, pci, vm
from xenopsd.atoms.hook import Hook
from xenopsd.atoms.kind import plug_after_device_model, plug_before_device_model
from xenopsd.engine.plan import NOTHING, Pivot, Plan, serial
from xenopsd.operations.life import needed
from xenopsd.operations.operation import Operation
from xenopsd.store.machine import Machine


class Start(Operation, frozen=True, kw_only=True, tag="VM.start"):
    """Create the domain, build it, plug every device; it ends Paused or Running."""

    needs: ClassVar = needed("VM.start")
    force: bool = False
    paused: bool = True

    def plan(self, machine: Machine) -> Plan:
        return serial(start(machine, force=self.force), NOTHING if self.paused else vm.Unpause(machine.vm))


def start(machine: Machine, *, force: bool) -> Plan:
    """From no domain to a whole one, paused; reboot takes the same way."""
    metadata = machine.metadata()
    return serial(
        *(pci.Dequarantine(machine.vm, it) for it in machine.of(Kind.PCI)),
        hook.Run(Hook.PRE_START, machine.vm),
        vm.Create(metadata),
        vm.Build(metadata, force),
        plug_before_device_model(machine),
        vm.CreateDeviceModel(metadata),
        plug_after_device_model(machine),
        Pivot("the domain is whole and survives us from here"),
        vm.Complete(machine.vm),
    )
