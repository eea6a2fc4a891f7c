# SPDX-License-Identifier: Apache-2.0
"""Change what a machine or an interface is, and let what runs follow."""

from xenops.events import Kind
from xenops.types.network import Network
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif
from xenopsd.atoms import vif, vm
from xenopsd.engine.plan import Plan
from xenopsd.operations.operation import Operation
from xenopsd.store.machine import Machine


class SetVcpus(Operation, frozen=True, kw_only=True, tag="VM.set_vcpus"):
    """How many vCPUs are in use."""

    n: int

    def plan(self, machine: Machine) -> Plan:
        return vm.SetVcpus(machine.vm, self.n)


class SetShadowMultiplier(Operation, frozen=True, kw_only=True, tag="VM.set_shadow_multiplier"):
    """How much shadow memory there is."""

    multiplier: float

    def plan(self, machine: Machine) -> Plan:
        return vm.SetShadowMultiplier(machine.vm, self.multiplier)


class SetMemoryDynamicRange(Operation, frozen=True, kw_only=True, tag="VM.set_memory_dynamic_range"):
    """The bounds of the balloon, in bytes."""

    minimum: int
    maximum: int

    def plan(self, machine: Machine) -> Plan:
        return vm.SetMemoryRange(machine.vm, self.minimum, self.maximum)


class SetXsdata(Operation, frozen=True, kw_only=True, tag="VM.set_xsdata"):
    """The guest-visible keys below vm-data/."""

    xsdata: dict[str, str]

    def plan(self, machine: Machine) -> Plan:
        return vm.SetXsdata(machine.vm, self.xsdata)


class _VifSetting(Operation, frozen=True, kw_only=True):
    dev: str

    def vif(self, machine: Machine) -> Vif:
        """The interface's record; raises `DoesNotExist`."""
        record: Vif = machine.device(Kind.VIF, self.dev).record
        return record


class Move(_VifSetting, frozen=True, kw_only=True, tag="VIF.move"):
    """To another network."""

    network: Network

    def plan(self, machine: Machine) -> Plan:
        return vif.Move(machine.vm, self.vif(machine), self.network)


class SetCarrier(_VifSetting, frozen=True, kw_only=True, tag="VIF.set_carrier"):
    """The virtual cable."""

    carrier: bool

    def plan(self, machine: Machine) -> Plan:
        return vif.SetCarrier(machine.vm, self.vif(machine), self.carrier)


class SetLockingMode(_VifSetting, frozen=True, kw_only=True, tag="VIF.set_locking_mode"):
    """Which traffic may pass."""

    mode: LockingMode

    def plan(self, machine: Machine) -> Plan:
        return vif.SetLockingMode(machine.vm, self.vif(machine), self.mode)


class SetIpv4Configuration(_VifSetting, frozen=True, kw_only=True, tag="VIF.set_ipv4_configuration"):
    """A hint to the guest."""

    configuration: Ipv4Configuration

    def plan(self, machine: Machine) -> Plan:
        return vif.SetIpv4(machine.vm, self.vif(machine), self.configuration)


class SetIpv6Configuration(_VifSetting, frozen=True, kw_only=True, tag="VIF.set_ipv6_configuration"):
    """A hint to the guest."""

    configuration: Ipv6Configuration

    def plan(self, machine: Machine) -> Plan:
        return vif.SetIpv6(machine.vm, self.vif(machine), self.configuration)


class SetPvsProxy(_VifSetting, frozen=True, kw_only=True, tag="VIF.set_pvs_proxy"):
    """A boot-disk cache in front."""

    proxy: PvsProxy | None = None

    def plan(self, machine: Machine) -> Plan:
        return vif.SetPvsProxy(machine.vm, self.vif(machine), self.proxy)


class SetTrunks(_VifSetting, frozen=True, kw_only=True, tag="VIF.set_trunks"):
    """The tagged VLANs."""

    trunks: list[int]

    def plan(self, machine: Machine) -> Plan:
        return vif.SetTrunks(machine.vm, self.vif(machine), tuple(self.trunks))
