# SPDX-License-Identifier: Apache-2.0
"""Steps on a domain."""

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import ClassVar

from xenops.errors import BadPowerState, BadRequest, FailedToAcknowledgeShutdownRequest, FailedToShutdown, InvalidVcpus
from xenops.events import Kind
from xenops.types.disk import Disk
from xenops.types.metadata import Metadata
from xenops.types.vm import PowerState, Vm
from xenopsd.atoms.context import Context
from xenopsd.atoms.progress import share_of
from xenopsd.backends.port import DomainAction, ShutdownReason
from xenopsd.engine.plan import Atom

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Create(Atom):
    """Make an empty domain; until the last step of a start it is marked as one to be destroyed."""

    machine: Metadata

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.create(self.machine)
        cx.changed(Kind.VM, self.machine.vm.id)

    async def undo(self, cx: Context) -> None:
        await cx.backend.vm.destroy(self.machine.vm)
        cx.changed(Kind.VM, self.machine.vm.id)


@dataclass(frozen=True)
class Build(Atom):
    """Build memory and vCPUs; what was built goes with the domain."""

    patience_s: ClassVar[float] = 0.0
    machine: Metadata
    force: bool

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.build(self.machine, force=self.force)


@dataclass(frozen=True)
class CreateDeviceModel(Atom):
    """Start what emulates an HVM guest's devices."""

    patience_s: ClassVar[float] = 0.0
    machine: Metadata
    restoring: bool = False

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.create_device_model(self.machine, restoring=self.restoring)

    async def undo(self, cx: Context) -> None:
        await cx.backend.vm.destroy_device_model(self.machine.vm)


@dataclass(frozen=True)
class DestroyDeviceModel(Atom):
    """Stop it."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.destroy_device_model(self.vm)


@dataclass(frozen=True)
class Destroy(Atom):
    """Destroy the domain."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.destroy(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class DiscardImage(Atom):
    """A memory image of it, if there is one, will not be used any more."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.discard_image(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Complete(Atom):
    """The domain is whole and may live: a restart of ours will keep it."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.set_action(self.vm, None)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Condemn(Atom):
    """The domain must go from here: should we fail or be killed before it has, the next check goes on."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.set_action(self.vm, DomainAction.DISCARD)


@dataclass(frozen=True)
class Pause(Atom):
    """Stop scheduling."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.pause(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Unpause(Atom):
    """Schedule again; a machine that runs is left alone."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        if await cx.backend.vm.power_state(self.vm) is PowerState.RUNNING:
            log.info("VM %s is not paused: nothing to do", self.vm.id)
            return
        await cx.backend.vm.unpause(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class AskToShutDown(Atom):
    """Ask the guest to stop and wait until it has; asking cannot be taken back."""

    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = 2 * 86400.0  # the caller's own budget is the limit
    vm: Vm
    reason: ShutdownReason
    budget_s: float

    async def do(self, cx: Context) -> None:
        if await cx.backend.vm.power_state(self.vm) is PowerState.SUSPENDED:  # there is nobody to ask
            raise BadPowerState(PowerState.SUSPENDED.value, PowerState.RUNNING.value)
        began = time.monotonic()
        ack_s = min(cx.limits.shutdown_ack_s, self.budget_s)
        if not await cx.backend.vm.request_shutdown(self.vm, self.reason, timeout_s=ack_s):
            raise FailedToAcknowledgeShutdownRequest(self.vm.id, ack_s)
        left_s = max(0.0, self.budget_s - (time.monotonic() - began))
        if not await cx.backend.vm.wait_shutdown(self.vm, self.reason, timeout_s=left_s):
            raise FailedToShutdown(self.vm.id, self.budget_s)


@dataclass(frozen=True)
class Save(Atom):
    """Write the memory image; from the moment the guest is asked to suspend there is no cancelling."""

    pivot: ClassVar[str] = "the guest is asked to suspend"
    weight: ClassVar[float] = 10.0
    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = 6 * 3600.0
    vm: Vm
    disk: Disk

    async def do(self, cx: Context) -> None:
        async def before_suspend() -> None:
            cx.task.checkpoint()
            cx.task.pass_pivot()

        await cx.backend.vm.save(self.vm, self.disk, share_of(cx, self.weight), before_suspend)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class Restore(Atom):
    """Build the created domain's memory from an image; what was built goes with the domain."""

    weight: ClassVar[float] = 10.0
    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = 6 * 3600.0
    machine: Metadata
    disk: Disk

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.restore(self.machine, self.disk, share_of(cx, self.weight))


@dataclass(frozen=True)
class Resume(Atom):
    """Wake a domain that was suspended in place."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.resume(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class S3Suspend(Atom):
    """ACPI sleep."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.s3suspend(self.vm)


@dataclass(frozen=True)
class S3Resume(Atom):
    """Wake from ACPI sleep."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.s3resume(self.vm)


@dataclass(frozen=True)
class SoftReset(Atom):
    """Reset the domain in place after the guest's kexec."""

    vm: Vm

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.soft_reset(self.vm)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class DumpCore(Atom):
    """Write the crashed domain's memory to a file."""

    timeout_s: ClassVar[float] = 3600.0
    vm: Vm

    async def do(self, cx: Context) -> None:
        path = cx.limits.crash_dir / f"{self.vm.id}-{int(time.time())}.core"
        await cx.backend.vm.dump_core(self.vm, path)
        log.warning("VM %s crashed; its memory is in %s", self.vm.id, path)


@dataclass(frozen=True)
class Delay(Atom):
    """Do nothing for a while; only this machine's own queue waits."""

    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = 2 * 86400.0
    seconds: float

    async def do(self, cx: Context) -> None:
        await asyncio.sleep(self.seconds)

    @property
    def about(self) -> str:
        return f"{self.seconds:g} s"


@dataclass(frozen=True)
class SetVcpus(Atom):
    """Bring vCPUs on line or off line."""

    vm: Vm
    n: int

    async def do(self, cx: Context) -> None:
        if not 0 < self.n <= self.vm.vcpu_max:
            raise InvalidVcpus(self.vm.vcpu_max)
        await cx.backend.vm.set_vcpus(self.vm, self.n)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class SetShadowMultiplier(Atom):
    """Resize shadow memory."""

    vm: Vm
    multiplier: float

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.set_shadow_multiplier(self.vm, self.multiplier)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class SetMemoryRange(Atom):
    """Tell the guest's balloon its bounds."""

    vm: Vm
    minimum: int
    maximum: int

    async def do(self, cx: Context) -> None:
        if not self.minimum <= self.maximum <= self.vm.memory_static_max:
            raise BadRequest(
                "params.max", f"wanted: min <= max <= {self.vm.memory_static_max}, the VM's static maximum"
            )
        await cx.backend.vm.set_memory_dynamic_range(self.vm, self.minimum, self.maximum)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class SetXsdata(Atom):
    """Replace the guest-visible keys below vm-data/."""

    vm: Vm
    xsdata: dict[str, str]

    async def do(self, cx: Context) -> None:
        await cx.backend.vm.set_xsdata(self.vm, self.xsdata)
        cx.changed(Kind.VM, self.vm.id)


@dataclass(frozen=True)
class RunScript(Atom):
    """Run a script in the guest; its end is the task's result."""

    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = 86400.0
    vm: Vm
    script: str

    async def do(self, cx: Context) -> None:
        cx.task.result = await cx.backend.vm.run_script(self.vm, self.script)
