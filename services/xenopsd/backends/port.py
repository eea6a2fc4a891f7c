# SPDX-License-Identifier: Apache-2.0
"""What xenopsd asks of a hypervisor: one protocol a noun.

Promises that every backend keeps, and that tests/contracts checks of each:
- a call returns when the thing has happened, not when it has been asked for;
- every undoing call (`destroy`, `destroy_device_model`, `unplug` with force, …) is idempotent;
- a call that is cancelled leaves the thing done or not done, and `state` says which;
- only faults of `xenops.errors` are raised;
- a domain that was not created through this port with a registered VM's id is never touched;
- the world outlives the daemon: after a restart the domains that ran are found running.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID, uuid5

from xenops.events import Kind
from xenops.types.disk import Disk
from xenops.types.host import Host, NumaAffinityPolicy
from xenops.types.metadata import Metadata
from xenops.types.network import Network
from xenops.types.pci import Pci, PciState
from xenops.types.pci_address import PciAddress
from xenops.types.process import Ended, Program
from xenops.types.vbd import Qos, Vbd, VbdState
from xenops.types.vgpu import Vgpu, VgpuState
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif, VifState
from xenops.types.vm import PowerState, Vm, VmState
from xenops.types.vusb import Vusb, VusbState

_TWINS = UUID("0d4e3a52-8c1f-4a5b-9c57-6f2c7a1b9e10")

RunProgram = Callable[[Program], Awaitable[Ended]]  # through forkexecd
Progress = Callable[[float], None]  # how much is done, 0 to 1
Changed = Callable[
    [Kind, str], None
]  # something may have changed by itself: look at it (a device's id is `<vm>.<dev>`)


def twin_id(vm: str) -> str:
    """The id under which a machine's second domain lives while there are two, always the same one."""
    return str(uuid5(_TWINS, vm))


@dataclass(frozen=True)
class Surroundings:
    """What a backend is given of the daemon: a folder of its own, the helper programs by key, and a way to run one."""

    state_dir: Path
    programs: Mapping[str, Path]
    run_program: RunProgram


class Outlet(Protocol):
    """Where a machine's memory goes."""

    async def send(self, data: bytes) -> None:
        """Send some of it. Raises `MigrationFailed`, also when it does not get through in time."""


class Inlet(Protocol):
    """Where it comes from."""

    async def receive(self) -> bytes | None:
        """Some of it; None at its end, which is as whole as it was sent. Raises `MigrationFailed`."""


class DomainAction(Enum):
    """What a domain needs done to it, because its guest or the host asked."""

    POWEROFF = "poweroff"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    CRASHDUMP = "crashdump"
    SOFTRESET = "softreset"
    DISCARD = "discard"  # half built or half taken away: it must go, whatever its record says of power-offs


class DeviceAction(Enum):
    """What a device needs done to it."""

    UNPLUG = "unplug"
    SET_QOS = "set_qos"


class ShutdownReason(Enum):
    """What a guest is asked to do; the values are those of xenstore's `control/shutdown`."""

    HALT = "halt"
    POWEROFF = "poweroff"
    REBOOT = "reboot"
    SUSPEND = "suspend"
    S3 = "s3"


class HostBackend(Protocol):
    """The host."""

    async def stat(self) -> Host:
        """Processors, hypervisor, chipset, memory."""

    async def get_console_data(self) -> str:
        """The hypervisor's console ring."""

    async def get_total_memory_mib(self) -> int:
        """The host's memory in MiB."""

    async def send_debug_keys(self, keys: str) -> None:
        """Press debug keys."""

    async def combine_cpu_policies(self, policy1: str, policy2: str) -> str:
        """The policy of a guest that could run on either of two hosts."""

    async def is_compatible(self, vm_policy: str, host_policy: str) -> bool:
        """Whether a guest with one policy can run on a host with the other."""

    async def set_numa_affinity_policy(self, policy: NumaAffinityPolicy | None) -> None:
        """How guests that start from now on are placed."""


class VmBackend(Protocol):
    """Domains. `vm` is always the registered record; the domain's handle is `vm.id`."""

    minimum_reboot_delay_s: float  # a guest that ran for less than this and reboots or crashes is in a loop

    async def create(self, machine: Metadata) -> None:
        """Make an empty, paused domain whose action request is DISCARD until `set_action(None)`.

        Raises `AlreadyExists("domain", id)` when the machine has a domain that is not suspended.
        """

    async def build(self, machine: Metadata, *, force: bool) -> None:
        """Build memory and vCPUs. Raises `NotEnoughMemory` (not with `force`), `BootloaderError`, `NoBootableDevice`."""

    async def create_device_model(self, machine: Metadata, *, restoring: bool) -> None:
        """Start what emulates an HVM guest's devices, its drives and interfaces being plugged. Raises `FailedToStartEmulator`."""

    async def destroy_device_model(self, vm: Vm) -> None:
        """Stop it. Idempotent."""

    async def destroy(self, vm: Vm) -> None:
        """Destroy the domain and all that belongs to it; a suspended machine stays Suspended. Idempotent."""

    async def forget(self, vm: Vm) -> None:
        """The record is being removed: drop what is kept of a suspended or halted machine. Idempotent."""

    async def discard_image(self, vm: Vm) -> None:
        """A suspended machine will not be resumed: it is Halted from now on. The image itself is its owner's. Idempotent."""

    async def pause(self, vm: Vm) -> None:
        """Stop scheduling. Idempotent. Raises `DomainNotBuilt`, `DoesNotExist("domain", id)`."""

    async def unpause(self, vm: Vm) -> None:
        """Schedule again. Idempotent. Raises as `pause`."""

    async def set_vcpus(self, vm: Vm, n: int) -> None:
        """Bring vCPUs on line or off line in the running guest."""

    async def set_shadow_multiplier(self, vm: Vm, multiplier: float) -> None:
        """Resize shadow memory. Raises `Unimplemented` for PV guests, `NotEnoughMemory`."""

    async def set_memory_dynamic_range(self, vm: Vm, minimum: int, maximum: int) -> None:
        """Tell the running guest's balloon its bounds, in bytes."""

    async def set_xsdata(self, vm: Vm, xsdata: dict[str, str]) -> None:
        """Replace the guest-visible keys below `vm-data/`."""

    async def request_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        """Ask the guest; true when it acknowledged within `timeout_s`."""

    async def wait_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        """True when the domain has shut down within `timeout_s`."""

    async def save(self, vm: Vm, disk: Disk, progress: Progress, before_suspend: Callable[[], Awaitable[None]]) -> None:
        """Write the memory image; `before_suspend` is awaited just before the guest is asked to suspend.

        Afterwards the domain is shut down for suspend. Raises `FailedToAcknowledgeSuspendRequest`, `FailedToSuspend`,
        `IoError`.
        """

    async def restore(self, machine: Metadata, disk: Disk, progress: Progress) -> None:
        """Build the created domain's memory from an image. Raises `IoError`, `NotEnoughMemory`."""

    async def resume(self, vm: Vm) -> None:
        """Wake a domain that has shut down for suspend and is still in place."""

    async def migrate_send(
        self, vm: Vm, outlet: Outlet, progress: Progress, before_suspend: Callable[[], Awaitable[None]]
    ) -> int:
        """Send the running guest's memory, round by round, then suspend it and send the rest; how many rounds it took.

        A paused guest takes no step meanwhile: its domain is shut down for suspend without it, and `resume` leaves it paused.
        `before_suspend` is awaited just before the guest is asked to. All or nothing, as `save`: afterwards the domain is shut down for
        suspend with its memory in place and nothing of its drives on the way, or a fault was raised and the guest runs on.
        """

    async def migrate_receive(self, machine: Metadata, inlet: Inlet, progress: Progress) -> None:
        """Build the created domain's memory from what `migrate_send` sent; it is paused. Raises as `restore`, and what `inlet` raises."""

    async def rename(self, vm: Vm, to: Vm) -> None:
        """The domain of `vm`, with all its devices, is from now on that of `to`, which has none: at once, or not at all.

        Idempotent: where `vm` has no domain there is nothing to do. Raises `AlreadyExists("domain", id)`.
        """

    async def s3suspend(self, vm: Vm) -> None:
        """ACPI sleep."""

    async def s3resume(self, vm: Vm) -> None:
        """Wake from ACPI sleep."""

    async def soft_reset(self, vm: Vm) -> None:
        """Reset the domain in place after the guest's kexec."""

    async def dump_core(self, vm: Vm, path: Path) -> None:
        """Write the crashed domain's memory to a file."""

    async def run_script(self, vm: Vm, script: str) -> dict[str, Any]:
        """`{"rc", "stdout", "stderr"}` from the guest's agent. Raises `Unimplemented`, `FailedToRunScript`."""

    async def states(self, vms: Sequence[Vm]) -> list[VmState]:
        """What the hypervisor says of each, in one go; a machine without a domain is Halted, or Suspended."""

    async def power_state(self, vm: Vm) -> PowerState:
        """What `states` says first of all, and cheap: it is asked before, between and after the steps."""

    async def set_action(self, vm: Vm, action: DomainAction | None) -> None:
        """Leave a note at the domain of what it needs; none means that it is complete and may live. Idempotent.

        DISCARD outweighs whatever the guest has asked for. Without a domain there is nothing to do.
        """

    async def get_action(self, vm: Vm) -> DomainAction | None:
        """What the domain needs; a machine without a domain needs DISCARD (its devices may be left over)."""

    async def remains(self, vm: Vm) -> bool:
        """Whether anything is left of a domain that is gone, such as one that somebody else destroyed; `destroy` takes it away."""

    async def hook_arguments(self, vm: Vm) -> list[str]:
        """What hooks are told beside id and reason, such as `-vmdomid 7`."""

    async def get_internal_state(self, vm: Vm) -> dict[str, Any] | None:
        """What must travel with the metadata for the machine to be resumed elsewhere; None when there is nothing."""

    async def set_internal_state(self, vm: Vm, untrusted_state: dict[str, Any]) -> None:
        """Take over what `get_internal_state` gave. Raises `BadRequest`."""

    async def generate_state_string(self, vm: Vm) -> str:
        """The opaque state of a machine that has not started yet."""


class VbdBackend(Protocol):
    """Drives."""

    async def plug(self, vm: Vm, vbd: Vbd) -> None:
        """Attach, activate and show the drive. Raises `AlreadyExists("vbd", position)`, `DoesNotExist("domain", id)`, `IoError`."""

    async def unplug(self, vm: Vm, vbd: Vbd, *, force: bool) -> None:
        """Take it away; without `force` the guest is asked first: `DeviceDetachRejected`. Idempotent."""

    async def insert(self, vm: Vm, vbd: Vbd, disk: Disk) -> None:
        """Put a medium into the plugged drive."""

    async def eject(self, vm: Vm, vbd: Vbd) -> None:
        """Take the medium out. Idempotent."""

    async def epoch_begin(self, vm: Vm, vbd: Vbd) -> None:
        """The machine begins a new life: a disk that is not persistent is reset."""

    async def epoch_end(self, vm: Vm, vbd: Vbd) -> None:
        """That life is over. Idempotent."""

    async def set_qos(self, vm: Vm, vbd: Vbd, qos: Qos | None) -> None:
        """Set the I/O priority of the drive's backend."""

    async def state(self, vm: Vm, vbd: Vbd) -> VbdState:
        """What there is of it; `active` is xenopsd's own business and left false."""

    async def get_action(self, vm: Vm, vbd: Vbd) -> DeviceAction | None:
        """What the drive needs done to it."""


class VifBackend(Protocol):
    """Network interfaces."""

    async def plug(self, vm: Vm, vif: Vif) -> None:
        """Show the interface to the guest and bring the link up. Raises `AlreadyExists("vif", position)`, `DoesNotExist`."""

    async def unplug(self, vm: Vm, vif: Vif, *, force: bool) -> None:
        """Take it away; without `force` the guest is asked first: `DeviceDetachRejected`. Idempotent."""

    async def move(self, vm: Vm, vif: Vif, network: Network) -> None:
        """Connect it to another network. Raises `Unimplemented` for those that cannot."""

    async def set_carrier(self, vm: Vm, vif: Vif, carrier: bool) -> None:
        """Plug the virtual cable in or out."""

    async def set_locking_mode(self, vm: Vm, vif: Vif, mode: LockingMode) -> None:
        """Which traffic may pass."""

    async def set_ipv4_configuration(self, vm: Vm, vif: Vif, configuration: Ipv4Configuration) -> None:
        """Hint to the guest."""

    async def set_ipv6_configuration(self, vm: Vm, vif: Vif, configuration: Ipv6Configuration) -> None:
        """Hint to the guest."""

    async def set_pvs_proxy(self, vm: Vm, vif: Vif, proxy: PvsProxy | None) -> None:
        """Put a boot-disk cache in front of it, or take it away."""

    async def set_trunks(self, vm: Vm, vif: Vif, trunks: list[int]) -> None:
        """The VLANs that reach it tagged."""

    async def state(self, vm: Vm, vif: Vif) -> VifState:
        """What there is of it; `active` is xenopsd's own business and left false."""

    async def get_action(self, vm: Vm, vif: Vif) -> DeviceAction | None:
        """What the interface needs done to it."""


class PciBackend(Protocol):
    """Passed-through PCI devices."""

    async def plug(self, vm: Vm, pci: Pci) -> None:
        """Give the device to the guest. Raises `AlreadyExists("pci", position)`, `PcibackNotLoaded`, `DoesNotExist`."""

    async def unplug(self, vm: Vm, pci: Pci) -> None:
        """Take it away. Idempotent."""

    async def dequarantine(self, address: PciAddress) -> None:
        """Give a device back that was set aside. Idempotent."""

    async def state(self, vm: Vm, pci: Pci) -> PciState:
        """What there is of it."""

    async def get_action(self, vm: Vm, pci: Pci) -> DeviceAction | None:
        """What the device needs done to it."""


class VusbBackend(Protocol):
    """Passed-through USB devices."""

    async def plug(self, vm: Vm, vusb: Vusb) -> None:
        """Give the device to the guest."""

    async def unplug(self, vm: Vm, vusb: Vusb) -> None:
        """Take it away. Idempotent."""

    async def state(self, vm: Vm, vusb: Vusb) -> VusbState:
        """What there is of it."""

    async def get_action(self, vm: Vm, vusb: Vusb) -> DeviceAction | None:
        """What the device needs done to it."""


class VgpuBackend(Protocol):
    """Virtual GPUs."""

    async def start(self, vm: Vm, vgpus: Sequence[Vgpu], *, restoring: bool) -> None:
        """Start the processes that emulate them."""

    async def state(self, vm: Vm, vgpu: Vgpu) -> VgpuState:
        """What there is of it; `active` is xenopsd's own business and left false."""


class Backend(Protocol):
    """A hypervisor: one attribute a noun, so that a step reads `cx.backend.vif.plug(...)`."""

    name: str
    host: HostBackend
    vm: VmBackend
    vbd: VbdBackend
    vif: VifBackend
    pci: PciBackend
    vusb: VusbBackend
    vgpu: VgpuBackend

    async def start(self, changed: Changed) -> None:
        """Open the world; from here on `changed` is called for what happens by itself."""

    async def stop(self) -> None:
        """Close it; domains run on. Idempotent."""

    async def debug(self, command: str, arguments: list[str]) -> None:
        """A command of the backend's own for tests. Raises `Unimplemented(command)`, `BadRequest`."""
