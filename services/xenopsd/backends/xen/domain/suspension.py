# SPDX-License-Identifier: Apache-2.0
"""A guest's memory in an image: written while the guest sleeps, and the guest woken again where it was.

From the moment the guest is asked to suspend it is all or nothing: the image is whole, or the guest runs on.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from xenops.errors import (
    BadPowerState,
    DoesNotExist,
    FailedToAcknowledgeSuspendRequest,
    FailedToSuspend,
    StorageBackendError,
)
from xenops.types.disk import Disk, Local
from xenops.types.vm import Hvm, PowerState, Pv, Vm
from xenopsd.backends.port import Progress, ShutdownReason
from xenopsd.backends.xen.builder.orders import Save, Suspended
from xenopsd.backends.xen.domain import layout, shutdown
from xenopsd.backends.xen.domain.shelf import Shelf
from xenopsd.backends.xen.domain.shelf import Suspended as Note
from xenopsd.backends.xen.domain.state import power_state
from xenopsd.backends.xen.domctl import DomainInfo, Shutdown
from xenopsd.backends.xen.world import World

log = logging.getLogger(__name__)


def image_path(disk: Disk) -> Path:
    """Where an image is. Raises `StorageBackendError`: no storage service is spoken to here."""
    if isinstance(disk, Local):
        return Path(disk.path)
    raise StorageBackendError("NO_STORAGE_SERVICE", ["give a Local disk, a path in the control domain"])


async def save(
    world: World,
    shelf: Shelf,
    vm: Vm,
    disk: Disk,
    progress: Progress,
    before_suspend: Callable[[], Awaitable[None]],
) -> None:
    """Write the image; the domain stays, shut down for suspend."""
    path = image_path(disk)
    info = await _in_state(world, vm, PowerState.RUNNING)

    async def suspend() -> Suspended:
        await before_suspend()
        await _suspend(world, vm)
        state = await world.device_models.save_state(info.domid) if world.device_models.has(info.domid) else None
        return Suspended(ok=True, qemu_state_path=str(state) if state else None)

    async def log_dirty(enable: bool) -> bool:
        await world.device_models.set_log_dirty(info.domid, enable)
        return True

    order = Save(
        domid=info.domid,
        path=str(path),
        metadata=msgspec.json.encode({"id": vm.id, "name": vm.name, "memory_kib": info.memory_kib}),
        hvm=not isinstance(vm.ty, Pv),
    )
    existed = await asyncio.to_thread(os.path.lexists, path)
    try:
        async with world.builders.take() as builder:
            emulated = world.device_models.has(info.domid)
            await builder.save(order, suspend, log_dirty=log_dirty if emulated else None, progress=progress)
        shelf.put(vm.id, await _noted(world, vm, info))
    except BaseException:
        await _wake(world, vm)
        if not existed:
            await asyncio.to_thread(_leave_no_half, path)
        raise


def _leave_no_half(path: Path) -> None:
    """What was begun of an image, where nothing was before, takes nobody's room."""
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        log.warning("the unfinished image %s stays: %s", path, error)


async def resume(world: World, shelf: Shelf, vm: Vm) -> None:
    """Wake a domain that is suspended in place."""
    await _in_state(world, vm, PowerState.SUSPENDED)
    await _wake(world, vm)
    shelf.drop(vm.id)


async def _noted(world: World, vm: Vm, info: DomainInfo) -> Note:
    """How large it is and should be, what vCPUs it was given meanwhile, and what its clock says."""
    private = layout.private(info.domid)
    target_kib, vcpus = await world.xs.read_many([f"{private}/target", f"{private}/vcpus"])
    return Note(
        memory_bytes=info.memory_kib << 10,
        target_bytes=int(target_kib or 0) << 10,
        vcpus=int(vcpus or 0),
        timeoffset=str(await world.xc.get_clock(info.domid)) if isinstance(vm.ty, Hvm) else "",
    )


async def _in_state(world: World, vm: Vm, wanted: PowerState) -> DomainInfo:
    info = await world.domains.info(vm.id)
    if info is None:
        raise DoesNotExist("domain", vm.id)
    if power_state(info) is not wanted:
        raise BadPowerState(power_state(info).value, wanted.value)
    return info


async def _suspend(world: World, vm: Vm) -> None:
    within_s = world.options.suspend_timeout
    if not await shutdown.request(world, vm, ShutdownReason.SUSPEND, within_s):
        raise FailedToAcknowledgeSuspendRequest(vm.id, within_s)
    stopped = await world.domains.wait(vm.id, shutdown.has_stopped, within_s)
    info = await world.domains.info(vm.id)
    if not stopped or info is None or not _asleep(info):
        raise FailedToSuspend(vm.id, within_s)


async def _wake(world: World, vm: Vm) -> None:
    """Let it go on where it was; a domain that did not fall asleep, or is gone, is left alone."""
    info = await world.domains.info(vm.id)
    if info is None or not _asleep(info):
        return
    await world.xc.resume(info.domid, fast=True)
    await world.xs.resume(info.domid)
    await world.device_models.go_on(info.domid)
    world.trees.touch(info.domid)
    world.domains.stir()


def _asleep(info: DomainInfo) -> bool:
    return info.shutdown and info.shutdown_reason == Shutdown.SUSPEND
