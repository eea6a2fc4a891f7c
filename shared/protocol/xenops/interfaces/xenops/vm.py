# SPDX-License-Identifier: Apache-2.0
"""Machines that this host knows about."""

from typing import Annotated, Any, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import (
    BadPowerState,
    BadRequest,
    Busy,
    DeviceIsConnected,
    DoesNotExist,
    InvalidVcpus,
    Migrated,
    MigrationFailed,
    TimedOut,
)
from xenops.idl import Interface, rpc
from xenops.interfaces.xenops.migration import QueueName
from xenops.types.disk import Disk
from xenops.types.ids import TaskId, VmId
from xenops.types.metadata import Metadata
from xenops.types.network import Network
from xenops.types.vm import Added, Bytes, ShadowMultiplier, Vm, VmStat

Seconds = Annotated[float, Meta(ge=0, le=86400, description="seconds")]
QUEUED = (DoesNotExist, Migrated, Busy)


class VM(Interface, Protocol):
    """Machines that this host knows about; nothing is ever done to a domain that was not registered here."""

    name: ClassVar[str] = "VM"

    @rpc(raises=(BadRequest, Busy))
    async def add(self, vm: Vm) -> Added:
        """Remember a machine; nothing is created until it starts. An id that exists already is updated, and says so.

        `vcpus` is at most `vcpu_max`, and `memory_dynamic_min` <= `memory_dynamic_max` <= `memory_static_max`.
        """

    @rpc(raises=(DoesNotExist, Migrated, BadPowerState, Busy, TimedOut))
    async def remove(self, id: VmId) -> None:
        """Forget a machine and its devices; it must be Halted or Suspended. Waits for what is queued before it."""

    @rpc(raises=(DoesNotExist, Migrated))
    async def rename(self, id: VmId, name: Annotated[str, Meta(min_length=1, max_length=255)]) -> None:
        """Give a machine another name; its id stays."""

    @rpc(reads=True)
    async def exists(self, id: VmId) -> bool:
        """Whether this host knows the machine."""

    @rpc(raises=(DoesNotExist, Migrated), reads=True)
    async def stat(self, id: VmId) -> VmStat:
        """The machine as registered and as it is."""

    @rpc(reads=True)
    async def list(self) -> list[VmStat]:
        """All machines, in the order in which they were registered."""

    @rpc(raises=QUEUED)
    async def create(self, id: VmId) -> TaskId:
        """Create an empty, paused domain; a single step of `start`, for debugging."""

    @rpc(raises=QUEUED)
    async def build(self, id: VmId, force: bool = False) -> TaskId:
        """Build the domain's memory; a single step of `start`, for debugging."""

    @rpc(raises=QUEUED)
    async def create_device_model(self, id: VmId, save_state: bool = False) -> TaskId:
        """Start the device model; a single step of `start`, for debugging."""

    @rpc(raises=QUEUED)
    async def destroy(self, id: VmId) -> TaskId:
        """Destroy the domain, if there is one."""

    @rpc(raises=(*QUEUED, BadPowerState))
    async def start(self, id: VmId, force: bool = False, paused: bool = True) -> TaskId:
        """Create the domain, build it and plug every device; the machine ends Paused, or Running with `paused` false.

        `force` skips the check that the host has memory enough.
        """

    @rpc(raises=QUEUED)
    async def shutdown(self, id: VmId, delay: Seconds | None = None) -> TaskId:
        """Stop the machine: at once, or, given a `delay`, cleanly, the guest having that many seconds in all.

        At once, a Suspended machine becomes Halted: its image will not be used any more, and may be deleted by whoever
        keeps it. Cleanly is then a `BadPowerState` of the task: no guest is there to be asked.
        """

    @rpc(raises=(*QUEUED, BadPowerState))
    async def reboot(self, id: VmId, delay: Seconds | None = None) -> TaskId:
        """Stop and start the machine, at once or cleanly as in `shutdown`; it ends Running."""

    @rpc(raises=QUEUED)
    async def pause(self, id: VmId) -> TaskId:
        """Stop giving the machine time."""

    @rpc(raises=QUEUED)
    async def unpause(self, id: VmId) -> TaskId:
        """Let a paused machine run on; one that runs already is left alone."""

    @rpc(raises=(*QUEUED, BadPowerState))
    async def suspend(self, id: VmId, disk: Disk) -> TaskId:
        """Save the machine's memory to a file or block device and destroy the domain; it ends Suspended."""

    @rpc(raises=(*QUEUED, BadPowerState))
    async def resume(self, id: VmId, disk: Disk, paused: bool = True) -> TaskId:
        """Bring a suspended machine back; it ends Paused, or Running with `paused` false."""

    @rpc(raises=(*QUEUED, BadPowerState))
    async def checkpoint(self, id: VmId, disk: Disk) -> TaskId:
        """Save the machine's memory and let it run on."""

    @rpc(raises=(*QUEUED, BadPowerState, BadRequest))
    async def migrate(
        self,
        id: VmId,
        destination: QueueName,
        compress: bool = False,
        disks: dict[str, Disk] = {},  # noqa: B006 (a default is never changed)
        networks: dict[str, Network] = {},  # noqa: B006
    ) -> TaskId:
        """Move a running or paused machine to another xenopsd, by the name of its queue; its guest stops only for the last of its memory.

        `localhost`, or our own queue: to a new domain here. What is paused stays paused. A machine with PCI or USB devices is refused.
        `disks` and `networks` say what drives and interfaces, by name (`xvda`, `0`), have there instead of what they have here.

        Whatever happens, exactly one of the two ends with the machine. The task's result has `downtime_s`, `rounds` and `bytes`.
        It can be cancelled until the destination is ready; `shutdown` and `destroy` cancel it. Drives must be reachable from both.
        """

    @rpc(raises=(DoesNotExist, MigrationFailed, Busy))
    async def migrate_resolve(self, id: VmId, keep: bool) -> None:
        """For a machine that was given to a destination that does not come back (`given_to` of `stat`): an operator decides.

        `keep`: the destination is dead, and the guest goes on here; whoever says so of a destination that lives makes two of it.
        Without, the machine is forgotten here. Refused while the destination answers.
        """

    @rpc(raises=QUEUED)
    async def fast_resume(self, id: VmId) -> TaskId:
        """Wake a domain that was suspended and is still in place."""

    @rpc(raises=QUEUED)
    async def s3suspend(self, id: VmId) -> TaskId:
        """Send an HVM guest to sleep by ACPI."""

    @rpc(raises=QUEUED)
    async def s3resume(self, id: VmId) -> TaskId:
        """Wake an HVM guest that sleeps by ACPI."""

    @rpc(raises=QUEUED)
    async def delay(self, id: VmId, seconds: Seconds) -> TaskId:
        """Keep the machine's queue busy for a while; for tests of order."""

    @rpc(raises=(*QUEUED, InvalidVcpus))
    async def set_vcpus(self, id: VmId, n: Annotated[int, Meta(ge=-(1 << 31), lt=1 << 31)]) -> TaskId:
        """How many vCPUs are in use, from 1 to the machine's maximum."""

    @rpc(raises=QUEUED)
    async def set_shadow_multiplier(self, id: VmId, multiplier: ShadowMultiplier) -> TaskId:
        """How much shadow memory an HVM guest has, as a multiple of the default."""

    @rpc(raises=(*QUEUED, BadRequest))
    async def set_memory_dynamic_range(self, id: VmId, min: Bytes, max: Bytes) -> TaskId:
        """Between which bounds, in bytes, the guest's memory may be ballooned."""

    @rpc(raises=QUEUED)
    async def set_xsdata(self, id: VmId, xsdata: dict[str, str]) -> TaskId:
        """Replace the guest-visible keys below `vm-data/`."""

    @rpc(raises=QUEUED)
    async def run_script(self, id: VmId, script: Annotated[str, Meta(max_length=1 << 20)]) -> TaskId:
        """Run a script in the guest through its agent; the task's result has `rc`, `stdout` and `stderr`."""

    @rpc(raises=(DoesNotExist,), reads=True)
    async def export_metadata(self, id: VmId) -> Metadata:
        """All that is known of a machine; `import_metadata` takes it back without loss."""

    @rpc(raises=(BadRequest, DeviceIsConnected, Busy, TimedOut))
    async def import_metadata(self, metadata: dict[str, Any] | str) -> VmId:
        """Register a machine with all its devices, or update it: our own export, or the original's JSON text.

        On a machine with work under way it waits for its turn; devices that are not named any more must be unplugged.
        """

    @rpc(reads=True)
    async def generate_state_string(self, vm: Vm) -> str:
        """The backend's opaque state for a machine that has not started yet."""
