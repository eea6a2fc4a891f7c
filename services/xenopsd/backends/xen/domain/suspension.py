# SPDX-License-Identifier: Apache-2.0
"""A guest's memory written out: to an image or to another domain, while the guest sleeps, and the guest woken again where it was.

From the moment the guest is asked to suspend it is all or nothing: what was written is whole, or the guest runs on.
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
from xenopsd.backends.xen.builder.orders import Save, Saved, Suspended
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


class Saving:
    """A running guest of which the memory is about to be written, and with it what its device model knows."""

    def __init__(self, world: World, vm: Vm, info: DomainInfo, before_suspend: Callable[[], Awaitable[None]]) -> None:
        self._world, self._vm, self._info = world, vm, info
        self._before_suspend = before_suspend
        self._moves = False

    async def run(self, path: str, progress: Progress, *, moves: bool = False, live: bool = False) -> Saved:
        """Write it all there; `live`, most of it while the guest runs on. The guest may be asleep when this fails.

        When it `moves`, `path` is a pipe, and nothing is at work for this domain any more once the guest is suspended.
        """
        world, info = self._world, self._info
        self._moves = moves
        order = Save(
            domid=info.domid,
            path=path,
            metadata=msgspec.json.encode({"id": self._vm.id, "name": self._vm.name, "memory_kib": info.memory_kib}),
            hvm=not isinstance(self._vm.ty, Pv),
            live=live,
            pipe=moves,
        )
        async with world.builders.take() as builder:
            emulated = world.device_models.has(info.domid)
            log_dirty = self._log_dirty if emulated else None
            return await builder.save(order, self._suspend, log_dirty=log_dirty, progress=progress)

    async def _suspend(self) -> Suspended:
        world, domid = self._world, self._info.domid
        await self._before_suspend()
        await _suspend(world, self._vm)
        for kind in world.devices if self._moves else ():
            await kind.drain(domid)
        state = await world.device_models.save_state(domid) if world.device_models.has(domid) else None
        return Suspended(ok=True, qemu_state_path=str(state) if state else None)

    async def _log_dirty(self, enable: bool) -> bool:
        await self._world.device_models.set_log_dirty(self._info.domid, enable)
        return True


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
    info = await in_state(world, vm, PowerState.RUNNING)
    existed = await asyncio.to_thread(os.path.lexists, path)
    try:
        await Saving(world, vm, info, before_suspend).run(str(path), progress)
        shelf.put(vm.id, await noted(world, vm, info))
    except BaseException:
        await wake(world, vm)
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
    await in_state(world, vm, PowerState.SUSPENDED)
    await wake(world, vm)
    shelf.drop(vm.id)


async def noted(world: World, vm: Vm, info: DomainInfo) -> Note:
    """How large it is and should be, what vCPUs it was given meanwhile, and what its clock says."""
    private = layout.private(info.domid)
    target_kib, vcpus = await world.xs.read_many([f"{private}/target", f"{private}/vcpus"])
    return Note(
        memory_bytes=info.memory_kib << 10,
        target_bytes=int(target_kib or 0) << 10,
        vcpus=int(vcpus or 0),
        timeoffset=str(await world.xc.get_clock(info.domid)) if isinstance(vm.ty, Hvm) else "",
    )


async def in_state(world: World, vm: Vm, wanted: PowerState) -> DomainInfo:
    """Its domain, which is what it should be. Raises `DoesNotExist`, `BadPowerState`."""
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


async def wake(world: World, vm: Vm) -> None:
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
