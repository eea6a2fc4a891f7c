# SPDX-License-Identifier: Apache-2.0
"""Where a new backend starts: it copies this file, and makes tests/contracts/backend green, promise by promise.

Nothing exists here: machines are halted, devices are not plugged, and every call that would change that says
`Unimplemented`. The imports of a copy shrink as its calls move to a file a noun.
"""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

from msgspec import Struct

from xenops.errors import Unimplemented
from xenops.types.disk import Disk
from xenops.types.host import ChipsetInfo, CpuInfo, Host, Hypervisor, NumaAffinityPolicy
from xenops.types.metadata import Metadata
from xenops.types.network import Network
from xenops.types.pci import Pci, PciState
from xenops.types.pci_address import PciAddress
from xenops.types.vbd import Qos, Vbd, VbdState
from xenops.types.vgpu import Vgpu, VgpuState
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif, VifState
from xenops.types.vm import HALTED, PowerState, Vm, VmState
from xenops.types.vusb import Vusb, VusbState
from xenopsd.backends.port import (
    Backend,
    Changed,
    DeviceAction,
    DomainAction,
    HostBackend,
    Inlet,
    Outlet,
    PciBackend,
    Progress,
    ShutdownReason,
    Surroundings,
    VbdBackend,
    VgpuBackend,
    VifBackend,
    VmBackend,
    VusbBackend,
)


class SkeletonHost:
    """The host."""

    async def stat(self) -> Host:
        return Host(cpu_info=CpuInfo(), hypervisor=Hypervisor(), chipset_info=ChipsetInfo())

    async def get_console_data(self) -> str:
        return ""

    async def get_total_memory_mib(self) -> int:
        return 0

    async def send_debug_keys(self, keys: str) -> None:
        raise Unimplemented("host.send_debug_keys")

    async def combine_cpu_policies(self, policy1: str, policy2: str) -> str:
        raise Unimplemented("host.combine_cpu_policies")

    async def is_compatible(self, vm_policy: str, host_policy: str) -> bool:
        raise Unimplemented("host.is_compatible")

    async def set_numa_affinity_policy(self, policy: NumaAffinityPolicy | None) -> None:
        raise Unimplemented("host.set_numa_affinity_policy")


class SkeletonVm:
    """Domains."""

    minimum_reboot_delay_s: float = 0.0

    async def create(self, machine: Metadata) -> None:
        raise Unimplemented("vm.create")

    async def build(self, machine: Metadata, *, force: bool) -> None:
        raise Unimplemented("vm.build")

    async def create_device_model(self, machine: Metadata, *, restoring: bool) -> None:
        raise Unimplemented("vm.create_device_model")

    async def destroy_device_model(self, vm: Vm) -> None:
        raise Unimplemented("vm.destroy_device_model")

    async def destroy(self, vm: Vm) -> None:
        raise Unimplemented("vm.destroy")

    async def forget(self, vm: Vm) -> None:
        raise Unimplemented("vm.forget")

    async def discard_image(self, vm: Vm) -> None:
        raise Unimplemented("vm.discard_image")

    async def pause(self, vm: Vm) -> None:
        raise Unimplemented("vm.pause")

    async def unpause(self, vm: Vm) -> None:
        raise Unimplemented("vm.unpause")

    async def set_vcpus(self, vm: Vm, n: int) -> None:
        raise Unimplemented("vm.set_vcpus")

    async def set_shadow_multiplier(self, vm: Vm, multiplier: float) -> None:
        raise Unimplemented("vm.set_shadow_multiplier")

    async def set_memory_dynamic_range(self, vm: Vm, minimum: int, maximum: int) -> None:
        raise Unimplemented("vm.set_memory_dynamic_range")

    async def set_xsdata(self, vm: Vm, xsdata: dict[str, str]) -> None:
        raise Unimplemented("vm.set_xsdata")

    async def request_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        raise Unimplemented("vm.request_shutdown")

    async def wait_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        raise Unimplemented("vm.wait_shutdown")

    async def save(self, vm: Vm, disk: Disk, progress: Progress, before_suspend: Callable[[], Awaitable[None]]) -> None:
        raise Unimplemented("vm.save")

    async def restore(self, machine: Metadata, disk: Disk, progress: Progress) -> None:
        raise Unimplemented("vm.restore")

    async def resume(self, vm: Vm) -> None:
        raise Unimplemented("vm.resume")

    async def migrate_send(
        self, vm: Vm, outlet: Outlet, progress: Progress, before_suspend: Callable[[], Awaitable[None]]
    ) -> int:
        raise Unimplemented("vm.migrate_send")

    async def migrate_receive(self, machine: Metadata, inlet: Inlet, progress: Progress) -> None:
        raise Unimplemented("vm.migrate_receive")

    async def rename(self, vm: Vm, to: Vm) -> None:
        raise Unimplemented("vm.rename")

    async def s3suspend(self, vm: Vm) -> None:
        raise Unimplemented("vm.s3suspend")

    async def s3resume(self, vm: Vm) -> None:
        raise Unimplemented("vm.s3resume")

    async def soft_reset(self, vm: Vm) -> None:
        raise Unimplemented("vm.soft_reset")

    async def dump_core(self, vm: Vm, path: Path) -> None:
        raise Unimplemented("vm.dump_core")

    async def run_script(self, vm: Vm, script: str) -> dict[str, Any]:
        raise Unimplemented("vm.run_script")

    async def states(self, vms: Sequence[Vm]) -> list[VmState]:
        return [HALTED for _ in vms]

    async def power_state(self, vm: Vm) -> PowerState:
        return PowerState.HALTED

    async def set_action(self, vm: Vm, action: DomainAction | None) -> None:
        raise Unimplemented("vm.set_action")

    async def get_action(self, vm: Vm) -> DomainAction | None:
        return DomainAction.DISCARD

    async def remains(self, vm: Vm) -> bool:
        return False

    async def hook_arguments(self, vm: Vm) -> list[str]:
        return []

    async def get_internal_state(self, vm: Vm) -> dict[str, Any] | None:
        return None

    async def set_internal_state(self, vm: Vm, untrusted_state: dict[str, Any]) -> None:
        raise Unimplemented("vm.set_internal_state")

    async def generate_state_string(self, vm: Vm) -> str:
        raise Unimplemented("vm.generate_state_string")


class SkeletonVbd:
    """Drives."""

    async def plug(self, vm: Vm, vbd: Vbd) -> None:
        raise Unimplemented("vbd.plug")

    async def unplug(self, vm: Vm, vbd: Vbd, *, force: bool) -> None:
        raise Unimplemented("vbd.unplug")

    async def insert(self, vm: Vm, vbd: Vbd, disk: Disk) -> None:
        raise Unimplemented("vbd.insert")

    async def eject(self, vm: Vm, vbd: Vbd) -> None:
        raise Unimplemented("vbd.eject")

    async def epoch_begin(self, vm: Vm, vbd: Vbd) -> None:
        raise Unimplemented("vbd.epoch_begin")

    async def epoch_end(self, vm: Vm, vbd: Vbd) -> None:
        raise Unimplemented("vbd.epoch_end")

    async def set_qos(self, vm: Vm, vbd: Vbd, qos: Qos | None) -> None:
        raise Unimplemented("vbd.set_qos")

    async def state(self, vm: Vm, vbd: Vbd) -> VbdState:
        return VbdState()

    async def get_action(self, vm: Vm, vbd: Vbd) -> DeviceAction | None:
        return None


class SkeletonVif:
    """Network interfaces."""

    async def plug(self, vm: Vm, vif: Vif) -> None:
        raise Unimplemented("vif.plug")

    async def unplug(self, vm: Vm, vif: Vif, *, force: bool) -> None:
        raise Unimplemented("vif.unplug")

    async def move(self, vm: Vm, vif: Vif, network: Network) -> None:
        raise Unimplemented("vif.move")

    async def set_carrier(self, vm: Vm, vif: Vif, carrier: bool) -> None:
        raise Unimplemented("vif.set_carrier")

    async def set_locking_mode(self, vm: Vm, vif: Vif, mode: LockingMode) -> None:
        raise Unimplemented("vif.set_locking_mode")

    async def set_ipv4_configuration(self, vm: Vm, vif: Vif, configuration: Ipv4Configuration) -> None:
        raise Unimplemented("vif.set_ipv4_configuration")

    async def set_ipv6_configuration(self, vm: Vm, vif: Vif, configuration: Ipv6Configuration) -> None:
        raise Unimplemented("vif.set_ipv6_configuration")

    async def set_pvs_proxy(self, vm: Vm, vif: Vif, proxy: PvsProxy | None) -> None:
        raise Unimplemented("vif.set_pvs_proxy")

    async def set_trunks(self, vm: Vm, vif: Vif, trunks: list[int]) -> None:
        raise Unimplemented("vif.set_trunks")

    async def state(self, vm: Vm, vif: Vif) -> VifState:
        return VifState()

    async def get_action(self, vm: Vm, vif: Vif) -> DeviceAction | None:
        return None


class SkeletonPci:
    """Passed-through PCI devices."""

    async def plug(self, vm: Vm, pci: Pci) -> None:
        raise Unimplemented("pci.plug")

    async def unplug(self, vm: Vm, pci: Pci) -> None:
        raise Unimplemented("pci.unplug")

    async def dequarantine(self, address: PciAddress) -> None:
        raise Unimplemented("pci.dequarantine")

    async def state(self, vm: Vm, pci: Pci) -> PciState:
        return PciState()

    async def get_action(self, vm: Vm, pci: Pci) -> DeviceAction | None:
        return None


class SkeletonVusb:
    """Passed-through USB devices."""

    async def plug(self, vm: Vm, vusb: Vusb) -> None:
        raise Unimplemented("vusb.plug")

    async def unplug(self, vm: Vm, vusb: Vusb) -> None:
        raise Unimplemented("vusb.unplug")

    async def state(self, vm: Vm, vusb: Vusb) -> VusbState:
        return VusbState()

    async def get_action(self, vm: Vm, vusb: Vusb) -> DeviceAction | None:
        return None


class SkeletonVgpu:
    """Virtual GPUs."""

    async def start(self, vm: Vm, vgpus: Sequence[Vgpu], *, restoring: bool) -> None:
        raise Unimplemented("vgpu.start")

    async def state(self, vm: Vm, vgpu: Vgpu) -> VgpuState:
        return VgpuState()


class Skeleton:
    """A hypervisor that can do nothing yet."""

    name: str = "skeleton"

    def __init__(self) -> None:
        self.host: HostBackend = SkeletonHost()
        self.vm: VmBackend = SkeletonVm()
        self.vbd: VbdBackend = SkeletonVbd()
        self.vif: VifBackend = SkeletonVif()
        self.pci: PciBackend = SkeletonPci()
        self.vusb: VusbBackend = SkeletonVusb()
        self.vgpu: VgpuBackend = SkeletonVgpu()

    async def start(self, changed: Changed) -> None:
        return

    async def stop(self) -> None:
        return

    async def debug(self, command: str, arguments: list[str]) -> None:
        raise Unimplemented(command)


class Options(Struct, frozen=True, kw_only=True):
    """The settings that begin with the backend's name; a copy has some."""


def create(surroundings: Surroundings, options: Options) -> Backend:
    """The door by which a backend is loaded; what it keeps belongs in `surroundings.state_dir`."""
    return Skeleton()
