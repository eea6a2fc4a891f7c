# SPDX-License-Identifier: Apache-2.0
"""Domains, as the port asks for them; the work is in the rooms beside."""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from xenops.errors import IoError, Unimplemented
from xenops.types.disk import Disk
from xenops.types.metadata import Metadata
from xenops.types.vm import Hvm, PowerState, Vm, VmState
from xenopsd.backends.port import DomainAction, Inlet, Outlet, Progress, ShutdownReason, twin_id
from xenopsd.backends.xen.builder.orders import DumpCore
from xenopsd.backends.xen.domain import creation, guest, layout, shutdown, suspension
from xenopsd.backends.xen.domain.shelf import Shelf, parse_note
from xenopsd.backends.xen.domain.state import States
from xenopsd.backends.xen.domctl import Shutdown
from xenopsd.backends.xen.migration import passage
from xenopsd.backends.xen.world import World
from xenopsd.backends.xen.xenstore.changes import Write

log = logging.getLogger(__name__)


class XenVm:
    """Domains."""

    def __init__(self, world: World, shelf: Shelf) -> None:
        self._world, self._shelf, self._states = world, shelf, States(world, shelf)
        self.minimum_reboot_delay_s = world.options.minimum_reboot_delay

    async def create(self, machine: Metadata) -> None:
        await creation.create(self._world, machine.vm)

    async def build(self, machine: Metadata, *, force: bool) -> None:
        await creation.build(self._world, machine, force=force)

    async def create_device_model(self, machine: Metadata, *, restoring: bool) -> None:
        vm = machine.vm
        domid = await guest.built(self._world, vm)
        if isinstance(vm.ty, Hvm):
            saved = self._world.device_models.saved_state(domid) if restoring else None
            vcpus = await self._world.xs.read(f"{layout.private(domid)}/vcpus")
            if vcpus:  # its state speaks of those that it had
                machine = replace(machine, vm=replace(vm, vcpus=int(vcpus)))
            await self._world.device_models.start(machine, domid, saved)
            self._world.trees.touch(domid)

    async def destroy_device_model(self, vm: Vm) -> None:
        domid = self._world.domains.domid(vm.id)
        if domid is not None:
            await self._world.device_models.stop(domid)
            self._world.trees.touch(domid)

    async def destroy(self, vm: Vm) -> None:
        await creation.destroy(self._world, vm)

    async def forget(self, vm: Vm) -> None:
        if await self.remains(vm):
            await creation.destroy(self._world, vm)  # nobody would look after them any more
        self._shelf.drop(vm.id)
        for id in (vm.id, twin_id(vm.id)):  # its second domain may have left one when it was taken away
            self._world.clocks.drop(id)

    async def discard_image(self, vm: Vm) -> None:
        self._shelf.drop(vm.id)

    async def pause(self, vm: Vm) -> None:
        domid = await guest.built(self._world, vm)
        info = await self._world.domains.info(vm.id)
        if info is not None and not info.paused:  # Xen counts pauses
            await self._world.xc.pause(domid)

    async def unpause(self, vm: Vm) -> None:
        domid = await guest.built(self._world, vm)
        await guest.has_terminal(self._world, domid)
        await self._world.xc.let_run(domid)
        await self._world.device_models.go_on(domid)

    async def set_vcpus(self, vm: Vm, n: int) -> None:
        await guest.set_vcpus(self._world, vm, n)

    async def set_shadow_multiplier(self, vm: Vm, multiplier: float) -> None:
        await guest.set_shadow_multiplier(self._world, vm, multiplier)

    async def set_memory_dynamic_range(self, vm: Vm, minimum: int, maximum: int) -> None:
        await guest.set_memory_range(self._world, vm, minimum, maximum)

    async def set_xsdata(self, vm: Vm, xsdata: dict[str, str]) -> None:
        await guest.set_xsdata(self._world, vm, xsdata)

    async def request_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        return await shutdown.request(self._world, vm, reason, timeout_s)

    async def wait_shutdown(self, vm: Vm, reason: ShutdownReason, *, timeout_s: float) -> bool:
        return await shutdown.wait(self._world, vm, reason, timeout_s)

    async def save(self, vm: Vm, disk: Disk, progress: Progress, before_suspend: Callable[[], Awaitable[None]]) -> None:
        await suspension.save(self._world, self._shelf, vm, disk, progress, before_suspend)

    async def restore(self, machine: Metadata, disk: Disk, progress: Progress) -> None:
        note = self._shelf.suspended(machine.vm.id)
        await creation.restore(self._world, machine, suspension.image_path(disk), progress, note=note)

    async def resume(self, vm: Vm) -> None:
        await suspension.resume(self._world, self._shelf, vm)

    async def migrate_send(
        self, vm: Vm, outlet: Outlet, progress: Progress, before_suspend: Callable[[], Awaitable[None]]
    ) -> int:
        return await passage.send(self._world, vm, outlet, progress, before_suspend)

    async def migrate_receive(self, machine: Metadata, inlet: Inlet, progress: Progress) -> None:
        await passage.receive(self._world, machine, inlet, progress)

    async def rename(self, vm: Vm, to: Vm) -> None:
        await self._world.domains.rename(vm, to)
        self._world.touched(to)

    async def s3suspend(self, vm: Vm) -> None:
        await guest.s3suspend(self._world, vm)

    async def s3resume(self, vm: Vm) -> None:
        await guest.s3resume(self._world, vm)

    async def soft_reset(self, vm: Vm) -> None:
        raise Unimplemented("vm.soft_reset")

    async def dump_core(self, vm: Vm, path: Path) -> None:
        domid = self._world.domains.require(vm.id)
        try:
            await asyncio.to_thread(os.makedirs, path.parent, mode=0o700, exist_ok=True)
        except OSError as error:
            raise IoError(str(path), error.strerror or str(error)) from error
        try:
            async with self._world.builders.take() as builder:
                await builder.dump_core(DumpCore(domid, str(path)))
        except BaseException:
            await asyncio.to_thread(path.unlink, missing_ok=True)  # half a core is of no use to anybody
            raise

    async def run_script(self, vm: Vm, script: str) -> dict[str, Any]:
        return await guest.run_script(self._world, vm, script)

    async def states(self, vms: Sequence[Vm]) -> list[VmState]:
        return await self._states.of(vms)

    async def power_state(self, vm: Vm) -> PowerState:
        return await self._states.power_state(vm)

    async def set_action(self, vm: Vm, action: DomainAction | None) -> None:
        info = await self._world.domains.info(vm.id)
        if info is None:
            return
        note = Write(f"{layout.private(info.domid)}/action", action.value if action else "")
        await self._world.xs.commit([note])
        if action is None and not (info.shutdown and info.shutdown_reason == Shutdown.SUSPEND):
            self._shelf.drop(vm.id)  # whole again: the image is history

    async def get_action(self, vm: Vm) -> DomainAction | None:
        info = await self._world.domains.info(vm.id)
        if info is None:
            return DomainAction.DISCARD
        noted = await self._world.xs.read(f"{layout.private(info.domid)}/action")
        action = DomainAction.DISCARD if noted is None else DomainAction(noted) if noted else None
        if action is DomainAction.DISCARD or not info.shutdown:
            return action
        return shutdown.ACTION_OF_CODE.get(info.shutdown_reason, DomainAction.POWEROFF)

    async def remains(self, vm: Vm) -> bool:
        return self._world.domains.domid(vm.id) is not None and await self._world.domains.info(vm.id) is None

    async def hook_arguments(self, vm: Vm) -> list[str]:
        domid = self._world.domains.domid(vm.id)
        return [] if domid is None else ["-vmdomid", str(domid)]

    async def get_internal_state(self, vm: Vm) -> dict[str, Any] | None:
        note = self._shelf.suspended(vm.id)
        return None if note is None else msgspec.to_builtins(note)

    async def set_internal_state(self, vm: Vm, untrusted_state: dict[str, Any]) -> None:
        self._shelf.put(vm.id, parse_note(untrusted_state))

    async def generate_state_string(self, vm: Vm) -> str:
        return msgspec.json.encode({"xen": 1, "name": vm.name, "vcpus": vm.vcpus}).decode()
