# SPDX-License-Identifier: Apache-2.0
"""Plug and unplug the devices of a running machine, and change media."""

from typing import ClassVar

from xenops.events import Kind
from xenops.types.disk import Disk
from xenopsd.atoms import vbd
from xenopsd.atoms.kind import KINDS
from xenopsd.engine.plan import Plan
from xenopsd.operations.life import LIVE
from xenopsd.operations.operation import Operation
from xenopsd.store.machine import Machine


class Plug(Operation, frozen=True, kw_only=True, tag="plug"):
    """Show a device to the guest."""

    needs: ClassVar = LIVE
    kind: Kind
    dev: str

    @property
    def name(self) -> str:
        return f"{self.kind.name}.plug"

    def plan(self, machine: Machine) -> Plan:
        return KINDS[self.kind].plug(machine.vm, machine.device(self.kind, self.dev).record)


class Unplug(Operation, frozen=True, kw_only=True, tag="unplug"):
    """Take a device away; without force the guest is asked first."""

    kind: Kind
    dev: str
    force: bool = False

    @property
    def name(self) -> str:
        return f"{self.kind.name}.unplug"

    def plan(self, machine: Machine) -> Plan:
        return KINDS[self.kind].unplug(machine.vm, machine.device(self.kind, self.dev).record, self.force)


class Insert(Operation, frozen=True, kw_only=True, tag="VBD.insert"):
    """Put a medium into an empty drive."""

    needs: ClassVar = LIVE
    dev: str
    disk: Disk

    def plan(self, machine: Machine) -> Plan:
        return vbd.Insert(machine.vm, machine.device(Kind.VBD, self.dev).record, self.disk)


class Eject(Operation, frozen=True, kw_only=True, tag="VBD.eject"):
    """Take the medium out of a drive."""

    needs: ClassVar = LIVE
    dev: str

    def plan(self, machine: Machine) -> Plan:
        return vbd.Eject(machine.vm, machine.device(Kind.VBD, self.dev).record)
