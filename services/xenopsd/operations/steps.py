# SPDX-License-Identifier: Apache-2.0
"""Single steps as operations of their own: pausing, and the parts of a start for people who debug."""

from xenopsd.atoms import vm
from xenopsd.atoms.kind import deactivate_all
from xenopsd.engine.plan import Plan, serial
from xenopsd.operations.operation import Operation
from xenopsd.store.machine import Machine


class Pause(Operation, frozen=True, kw_only=True, tag="VM.pause"):
    """Stop giving the machine time."""

    def plan(self, machine: Machine) -> Plan:
        return vm.Pause(machine.vm)


class Unpause(Operation, frozen=True, kw_only=True, tag="VM.unpause"):
    """Let it run on."""

    def plan(self, machine: Machine) -> Plan:
        return vm.Unpause(machine.vm)


class Create(Operation, frozen=True, kw_only=True, tag="VM.create"):
    """An empty, paused domain."""

    def plan(self, machine: Machine) -> Plan:
        return vm.Create(machine.metadata())


class Build(Operation, frozen=True, kw_only=True, tag="VM.build"):
    """The domain's memory."""

    force: bool = False

    def plan(self, machine: Machine) -> Plan:
        return vm.Build(machine.metadata(), self.force)


class CreateDeviceModel(Operation, frozen=True, kw_only=True, tag="VM.create_device_model"):
    """The device model."""

    save_state: bool = False

    def plan(self, machine: Machine) -> Plan:
        return vm.CreateDeviceModel(machine.metadata(), self.save_state)


class Destroy(Operation, frozen=True, kw_only=True, tag="VM.destroy"):
    """No domain."""

    def plan(self, machine: Machine) -> Plan:
        return serial(vm.Destroy(machine.vm), deactivate_all(machine))


class S3Suspend(Operation, frozen=True, kw_only=True, tag="VM.s3suspend"):
    """ACPI sleep."""

    def plan(self, machine: Machine) -> Plan:
        return vm.S3Suspend(machine.vm)


class S3Resume(Operation, frozen=True, kw_only=True, tag="VM.s3resume"):
    """Wake from ACPI sleep."""

    def plan(self, machine: Machine) -> Plan:
        return vm.S3Resume(machine.vm)


class Delay(Operation, frozen=True, kw_only=True, tag="VM.delay"):
    """Keep the machine's queue busy."""

    seconds: float

    def plan(self, machine: Machine) -> Plan:
        return vm.Delay(self.seconds)


class RunScript(Operation, frozen=True, kw_only=True, tag="VM.run_script"):
    """A script in the guest."""

    script: str

    def plan(self, machine: Machine) -> Plan:
        return vm.RunScript(machine.vm, self.script)
