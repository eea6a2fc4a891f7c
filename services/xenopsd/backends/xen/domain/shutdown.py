# SPDX-License-Identifier: Apache-2.0
"""Asking a guest to stop, and seeing that it has.

    control/shutdown = <what>     we write
    control/shutdown = ""         the guest has read it: acknowledged
    the domain's shutdown flag    it has stopped, with one of the codes below

A guest without the drivers for this has no such node to read: its power button or its sleep button is pressed, or Xen
stops it.
Sources: xen/include/public/sched.h (SHUTDOWN_*), docs/misc/xenstore-paths.pandoc (control/shutdown).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from xenops.errors import StepTimedOut
from xenops.types.vm import Hvm, Vm
from xenopsd.backends.port import DomainAction, ShutdownReason
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domctl import DomainInfo, HvmParam, Shutdown, Trigger
from xenopsd.backends.xen.world import World
from xenopsd.backends.xen.xenstore.transaction import Transaction

ACTION_OF_CODE: dict[int, DomainAction] = {
    Shutdown.POWEROFF: DomainAction.POWEROFF,
    Shutdown.REBOOT: DomainAction.REBOOT,
    Shutdown.SUSPEND: DomainAction.SUSPEND,
    Shutdown.CRASH: DomainAction.CRASHDUMP,
    Shutdown.WATCHDOG: DomainAction.REBOOT,
    Shutdown.SOFT_RESET: DomainAction.SOFTRESET,
}

_CODES = {
    ShutdownReason.HALT: Shutdown.POWEROFF,
    ShutdownReason.POWEROFF: Shutdown.POWEROFF,
    ShutdownReason.REBOOT: Shutdown.REBOOT,
    ShutdownReason.SUSPEND: Shutdown.SUSPEND,
}


def has_stopped(info: DomainInfo | None) -> bool:
    """Whether there is nothing left to wait for."""
    return info is None or info.shutdown


async def request(world: World, vm: Vm, reason: ShutdownReason, timeout_s: float) -> bool:
    """Ask; true when the guest acknowledged, or has stopped, or is of those that can only be told."""
    info = await world.domains.info(vm.id)
    if info is None or info.shutdown:
        return True
    if isinstance(vm.ty, Hvm) and not await listens(world, info.domid):
        if info.paused:  # it would not feel its power button
            return await world.domains.wait(vm.id, has_stopped, timeout_s)
        return await _tell(world, info.domid, reason)
    path = f"{layout.domain(info.domid)}/control/shutdown"

    async def ask(transaction: Transaction) -> bool:
        if await transaction.read(path) is None:
            return False
        await transaction.write(path, reason.value)
        return True

    async def withdraw(transaction: Transaction) -> None:
        if await transaction.read(path) == reason.value:
            await transaction.write(path, "")

    if not await world.xs.transact(ask):
        return True  # it is being taken away
    answered = await _first(
        _acknowledged(world, path, timeout_s),
        world.domains.wait(vm.id, has_stopped, timeout_s),
    )
    if not answered:
        await world.xs.transact(withdraw)  # we say that it failed: the guest must not do it later after all
    return answered


async def wait(world: World, vm: Vm, reason: ShutdownReason, timeout_s: float) -> bool:
    """True when the domain has stopped in time; one that sleeps cannot be watched and counts as asleep."""
    if reason is ShutdownReason.S3:
        return True
    return await world.domains.wait(vm.id, has_stopped, timeout_s)


async def listens(world: World, domid: int) -> bool:
    """Whether an HVM guest has drivers that read control/shutdown: it has said where it wants its events."""
    return await world.xc.get_hvm_param(domid, HvmParam.CALLBACK_IRQ) != 0


async def _acknowledged(world: World, path: str, timeout_s: float) -> bool:
    try:
        await world.xs.wait_for([path], lambda values: values[path] in (None, ""), timeout_s)
    except StepTimedOut:
        return False
    return True


async def _tell(world: World, domid: int, reason: ShutdownReason) -> bool:
    if reason in (ShutdownReason.HALT, ShutdownReason.POWEROFF):
        await world.xc.send_trigger(domid, Trigger.POWER)
    elif reason is ShutdownReason.S3:
        await world.xc.send_trigger(domid, Trigger.SLEEP)
    elif reason in _CODES:
        await world.xc.shutdown(domid, _CODES[reason])
    return True


async def _first(*waits: Coroutine[Any, Any, bool]) -> bool:
    """Whether any of these came true; what was not needed any more is cancelled and gone."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    try:
        for done in asyncio.as_completed(tasks):
            if await done:
                return True
        return False
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
