# SPDX-License-Identifier: Apache-2.0
"""Simulated domains: made, built, scheduled, asked to stop, saved, restored and destroyed."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

import msgspec

from xenops.errors import (
    AlreadyExists,
    BadPowerState,
    BadRequest,
    DomainNotBuilt,
    FailedToAcknowledgeSuspendRequest,
    FailedToRunScript,
    FailedToSuspend,
    InvalidVcpus,
    IoError,
    MigrationFailed,
    Unimplemented,
)
from xenops.types.disk import Disk, Vdi
from xenops.types.metadata import Metadata
from xenops.types.vm import HALTED, DomainType, PowerState, Vm, VmState
from xenopsd.backends.port import DomainAction, Inlet, Outlet, Progress, ShutdownReason
from xenopsd.backends.simulator import passage
from xenopsd.backends.simulator.injection import Gate, Noun, gated
from xenopsd.backends.simulator.world import guest, image
from xenopsd.backends.simulator.world.domain import ACTION_OF_CODE, Domain, ShutdownCode, Suspended, kind_of
from xenopsd.backends.simulator.world.state import power_state_of, render
from xenopsd.backends.simulator.world.world import World

_SUSPENDED = VmState(power_state=PowerState.SUSPENDED)


class SimulatedVm(Noun):
    """Domains."""

    noun: ClassVar[str] = "vm"

    def __init__(
        self, world: World, gate: Gate, *, disks: Path, minimum_reboot_delay_s: float, suspend_timeout_s: float
    ) -> None:
        super().__init__(world, gate)
        self.minimum_reboot_delay_s = minimum_reboot_delay_s
        self._disks = disks
        self._suspend_timeout_s = suspend_timeout_s

    @gated
    async def create(self, machine: Metadata) -> None:
        domain = self._world.find(machine.vm.id)
        if domain is not None and domain.shutdown is not ShutdownCode.SUSPEND:
            raise AlreadyExists("domain", machine.vm.id)
        self._world.create(machine.vm)

    @gated
    async def build(self, machine: Metadata, *, force: bool) -> None:
        domain = self._world.domain(machine.vm.id)
        self._world.take_memory(domain, least_kib=domain.dynamic_min_kib, most_kib=domain.dynamic_max_kib, force=force)
        self._finish_building(domain)

    @gated
    async def create_device_model(self, machine: Metadata, *, restoring: bool) -> None:
        domain = self._world.domain(machine.vm.id)
        if not domain.built:
            raise DomainNotBuilt()
        if domain.hvm:
            domain.device_model = True
            self._world.commit(domain)
            self._world.screens.open(domain)

    @gated
    async def destroy_device_model(self, vm: Vm) -> None:
        domain = self._world.find(vm.id)
        if domain is not None and domain.device_model:
            domain.device_model = False
            self._world.commit(domain)
            self._world.screens.open(domain)

    @gated
    async def destroy(self, vm: Vm) -> None:
        self._world.remove(vm.id)

    @gated
    async def forget(self, vm: Vm) -> None:
        self._world.suspend(vm.id, None)

    @gated
    async def discard_image(self, vm: Vm) -> None:
        self._world.suspend(vm.id, None)

    @gated
    async def pause(self, vm: Vm) -> None:
        domain = self._world.complete(vm.id)
        domain.paused = True
        self._world.commit(domain)

    @gated
    async def unpause(self, vm: Vm) -> None:
        self._world.schedule(self._world.complete(vm.id))

    @gated
    async def set_vcpus(self, vm: Vm, n: int) -> None:
        domain = self._world.complete(vm.id)
        if not 1 <= n <= domain.vcpu_max:
            raise InvalidVcpus(domain.vcpu_max)
        domain.vcpus = n
        self._world.commit(domain)

    @gated
    async def set_shadow_multiplier(self, vm: Vm, multiplier: float) -> None:
        domain = self._world.complete(vm.id)
        if domain.kind is DomainType.PV:
            raise Unimplemented("vm.set_shadow_multiplier")
        before, domain.shadow_multiplier = domain.shadow_multiplier, multiplier
        try:
            self._world.take_memory(domain, least_kib=domain.target_kib, most_kib=domain.target_kib)
        except BaseException:
            domain.shadow_multiplier = before
            raise
        self._world.commit(domain)

    @gated
    async def set_memory_dynamic_range(self, vm: Vm, minimum: int, maximum: int) -> None:
        domain = self._world.domain(vm.id)
        if not domain.built:
            raise DomainNotBuilt()
        domain.dynamic_min_kib, domain.dynamic_max_kib = minimum >> 10, maximum >> 10
        # The balloon grows as far as there is memory; a bound that cannot be met is not an error of the bound.
        self._world.take_memory(domain, least_kib=0, most_kib=domain.dynamic_max_kib, force=True)
        self._world.commit(domain)

    @gated
    async def set_xsdata(self, vm: Vm, xsdata: dict[str, str]) -> None:
        domain = self._world.domain(vm.id)
        domain.xsdata = dict(xsdata)
        self._world.commit(domain)

    @gated
    async def request_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        return await self._request(vm, reason, timeout_s)

    @gated
    async def wait_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        return await self._world.wait(vm.id, lambda: self._has_stopped(vm, reason), timeout_s)

    @gated
    async def save(self, vm: Vm, disk: Disk, progress: Progress, before_suspend: Callable[[], Awaitable[None]]) -> None:
        domain = self._world.complete(vm.id)
        path = self._path(disk)
        await asyncio.to_thread(image.check_writable, path)
        progress(0.5)
        await before_suspend()
        # From here on all or nothing: the image is whole when we return, or else the guest runs on.
        try:
            await self._suspend(vm)
            size = await _to_the_end(image.write, path, domain)
        except BaseException:
            self._world.wake(vm.id)
            raise
        self._world.suspend(vm.id, Suspended(memory_bytes=size, timeoffset=domain.timeoffset))
        progress(1.0)

    @gated
    async def restore(self, machine: Metadata, disk: Disk, progress: Progress) -> None:
        self._world.domain(machine.vm.id)
        path = self._path(disk)
        saved = await asyncio.to_thread(image.read, path)
        if saved.kind is not kind_of(machine.vm.ty):
            raise IoError(str(path), f"the memory image is of a {saved.kind.value} guest")
        progress(0.5)
        self._take_over(machine.vm, saved)
        progress(1.0)

    @gated
    async def migrate_send(
        self, vm: Vm, outlet: Outlet, progress: Progress, before_suspend: Callable[[], Awaitable[None]]
    ) -> int:
        domain = self._world.complete(vm.id)
        left, rounds = await passage.send_live(domain, outlet, progress)
        await before_suspend()
        try:
            if domain.paused:
                self._world.stop_paused(domain)
            else:
                await self._suspend(vm)
            await passage.send_rest(domain, left, outlet)
        except BaseException:
            self._world.wake(vm.id)
            raise
        progress(1.0)
        return rounds + 1

    @gated
    async def migrate_receive(self, machine: Metadata, inlet: Inlet, progress: Progress) -> None:
        self._world.domain(machine.vm.id)
        sent = await passage.receive(machine.vm.id, inlet, progress)
        if sent.kind is not kind_of(machine.vm.ty):
            raise MigrationFailed(machine.vm.id, f"what arrived is a {sent.kind.value} guest")
        self._take_over(machine.vm, sent)
        progress(1.0)

    @gated
    async def rename(self, vm: Vm, to: Vm) -> None:
        self._world.rename(vm.id, to)

    @gated
    async def resume(self, vm: Vm) -> None:
        domain = self._world.domain(vm.id)
        if domain.shutdown is not ShutdownCode.SUSPEND:
            raise BadPowerState(power_state_of(domain).value, PowerState.SUSPENDED.value)
        self._world.wake(vm.id)
        self._world.suspend(vm.id, None)

    @gated
    async def s3suspend(self, vm: Vm) -> None:
        self._sleep(vm, asleep=True)

    @gated
    async def s3resume(self, vm: Vm) -> None:
        self._sleep(vm, asleep=False)

    @gated
    async def soft_reset(self, vm: Vm) -> None:
        domain = self._world.complete(vm.id)
        domain.shutdown, domain.booted, domain.guest = None, False, {}
        self._world.schedule(domain)

    @gated
    async def dump_core(self, vm: Vm, path: Path) -> None:
        domain = self._world.domain(vm.id)
        try:
            await asyncio.to_thread(path.parent.mkdir, parents=True, exist_ok=True)
        except OSError as error:
            raise IoError(str(path), str(error.strerror or error)) from error
        await asyncio.to_thread(image.write, path, domain)

    @gated
    async def run_script(self, vm: Vm, script: str) -> dict[str, Any]:
        domain = self._world.domain(vm.id)
        if not domain.runs:
            raise FailedToRunScript("the guest does not run")
        if "control/feature-xs-batcmd" not in domain.guest or not domain.behaviour.agent:
            raise Unimplemented("vm.run_script")
        return {"rc": 0, "stdout": "", "stderr": ""}

    @gated
    async def states(self, vms: Sequence[Vm]) -> list[VmState]:
        known = self._world.states
        return [known.get(vm.id) or self._state(vm.id) for vm in vms]

    @gated
    async def power_state(self, vm: Vm) -> PowerState:
        return (self._world.states.get(vm.id) or self._state(vm.id)).power_state

    @gated
    async def set_action(self, vm: Vm, action: DomainAction | None) -> None:
        domain = self._world.find(vm.id)
        if domain is None:
            return
        domain.action = action
        self._world.commit(domain)
        if action is None and domain.shutdown is not ShutdownCode.SUSPEND:
            self._world.suspend(vm.id, None)  # whole again: the image is history

    @gated
    async def get_action(self, vm: Vm) -> DomainAction | None:
        domain = self._world.find(vm.id)
        if domain is None:
            return DomainAction.DISCARD
        if domain.shutdown is None or domain.action is DomainAction.DISCARD:
            return domain.action
        return ACTION_OF_CODE[domain.shutdown]

    @gated
    async def remains(self, vm: Vm) -> bool:
        return False  # a simulated domain goes with all that it had

    @gated
    async def hook_arguments(self, vm: Vm) -> list[str]:
        domain = self._world.find(vm.id)
        return [] if domain is None else ["-vmdomid", str(domain.domid)]

    @gated
    async def get_internal_state(self, vm: Vm) -> dict[str, Any] | None:
        note = self._world.suspended.get(vm.id)
        return None if note is None else msgspec.to_builtins(note)

    @gated
    async def set_internal_state(self, vm: Vm, untrusted_state: dict[str, Any]) -> None:
        try:
            note = msgspec.convert(untrusted_state, Suspended)
        except msgspec.ValidationError as error:
            raise BadRequest("domains", str(error)) from error
        self._world.suspend(vm.id, note)

    @gated
    async def generate_state_string(self, vm: Vm) -> str:
        return msgspec.json.encode({"simulator": 1, "name": vm.name, "vcpus": vm.vcpus}).decode()

    async def _request(self, vm: Vm, reason: ShutdownReason, timeout_s: float) -> bool:
        domain = self._world.find(vm.id)
        if domain is None or domain.shutdown is not None:
            return True
        self._world.ask(domain, reason)
        return await self._world.wait(
            vm.id, lambda: self._world.find(vm.id) is not domain or domain.asked is None, timeout_s
        )

    async def _suspend(self, vm: Vm) -> None:
        within_s = self._suspend_timeout_s
        if not await self._request(vm, ShutdownReason.SUSPEND, within_s):
            raise FailedToAcknowledgeSuspendRequest(vm.id, within_s)
        domain = self._world.find(vm.id)
        stopped = await self._world.wait(vm.id, lambda: self._has_stopped(vm, ShutdownReason.SUSPEND), within_s)
        if not stopped or domain is None or domain.shutdown is not ShutdownCode.SUSPEND:
            raise FailedToSuspend(vm.id, within_s)

    def _has_stopped(self, vm: Vm, reason: ShutdownReason) -> bool:
        domain = self._world.find(vm.id)
        return domain is None or domain.shutdown is not None or (reason is ShutdownReason.S3 and domain.asleep)

    def _finish_building(self, domain: Domain) -> None:
        domain.built = True
        self._world.commit(domain)
        self._world.screens.open(domain)

    def _take_over(self, vm: Vm, saved: Domain) -> None:
        """The created domain becomes the one that was saved, and its guest wakes as soon as it is scheduled."""
        domain = self._world.domain(vm.id)  # it may have vanished meanwhile
        self._world.take_memory(domain, least_kib=saved.target_kib, most_kib=saved.target_kib)
        domain.booted, domain.vcpus, domain.timeoffset = saved.booted, saved.vcpus, saved.timeoffset
        domain.guest, domain.console = saved.guest, saved.console
        domain.ram, domain.behaviour = saved.ram, saved.behaviour
        shown = guest.wake(domain, unaware=saved.paused)
        self._finish_building(domain)
        self._world.screens.show(domain.domid, shown)

    def _sleep(self, vm: Vm, *, asleep: bool) -> None:
        domain = self._world.complete(vm.id)
        if not domain.hvm:
            raise Unimplemented("vm.s3suspend" if asleep else "vm.s3resume")
        domain.asleep = asleep
        self._world.commit(domain)

    def _path(self, disk: Disk) -> Path:
        """Where a disk's bytes are; the storage service's disks are files of ours."""
        if not isinstance(disk, Vdi):
            return Path(disk.path)
        self._disks.mkdir(parents=True, exist_ok=True)
        return self._disks / quote(disk.name, safe="")

    def _state(self, vm: str) -> VmState:
        domain = self._world.find(vm)
        if domain is None:
            return _SUSPENDED if vm in self._world.suspended else HALTED
        state = render(domain, self._world)
        self._world.states[vm] = state
        return state


async def _to_the_end(write: Callable[[Path, Domain], int], path: Path, domain: Domain) -> int:
    """Write in a thread; cancelling waits for the thread, which cannot be stopped."""
    writing = asyncio.ensure_future(asyncio.to_thread(write, path, domain))
    try:
        return await asyncio.shield(writing)
    except asyncio.CancelledError:
        await asyncio.wait([writing])
        raise
