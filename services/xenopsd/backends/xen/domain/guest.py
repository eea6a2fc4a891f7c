# SPDX-License-Identifier: Apache-2.0
"""Settings of a running guest: its vCPUs, its balloon, its data, its sleep, scripts that its agent runs."""

import logging
from typing import Any

from xenops.errors import (
    DomainNotBuilt,
    FailedToAcknowledgeSuspendRequest,
    FailedToRunScript,
    InvalidVcpus,
    NotEnoughMemory,
    StepTimedOut,
    Unimplemented,
)
from xenops.types.vm import Hvm, Pv, Vm
from xenopsd.backends.port import ShutdownReason
from xenopsd.backends.xen.domain import layout, shutdown
from xenopsd.backends.xen.domain.memory import plan_memory, shadow
from xenopsd.backends.xen.domctl import HvmParam
from xenopsd.backends.xen.world import World
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, Write
from xenopsd.backends.xen.xenstore.transaction import Transaction

log = logging.getLogger(__name__)

_SCRIPT_S = 86400.0
_TERMINAL_S = 5.0
_SLEEP_S = 60.0
_SCRIPT_OUTPUT = 1024


async def built(world: World, vm: Vm) -> int:
    """The domain of a machine that has been built. Raises `DoesNotExist`, `DomainNotBuilt`."""
    domid = world.domains.require(vm.id)
    if domid not in world.domains.built:
        if await world.xs.read(f"{layout.private(domid)}/built") is None:
            raise DomainNotBuilt()
        world.domains.built.add(domid)
    return domid


async def has_terminal(world: World, domid: int) -> None:
    """Wait until xenconsoled serves the guest: who starts a machine may attach to it next."""
    path = f"{layout.domain(domid)}/console/tty"
    if await world.xs.read(path):
        return
    try:
        await world.xs.wait_for([path], lambda values: values[path] != "", _TERMINAL_S)
    except StepTimedOut:
        log.warning("domain %d has no terminal after %g s: does xenconsoled run?", domid, _TERMINAL_S)


async def set_vcpus(world: World, vm: Vm, n: int) -> None:
    """The guest brings them on line or takes them off; an emulated PC can get more of them and not lose any."""
    domid = await built(world, vm)
    if not 1 <= n <= vm.vcpu_max:
        raise InvalidVcpus(vm.vcpu_max)
    await world.xs.commit(layout.vcpus(domid, vm.vcpu_max, n))
    if isinstance(vm.ty, Hvm):
        await world.device_models.add_vcpus(domid, n)
    world.trees.touch(domid)


async def set_memory_range(world: World, vm: Vm, minimum: int, maximum: int) -> None:
    """The balloon's target becomes the most that there is memory for."""
    domid = await built(world, vm)
    plan = plan_memory(vm)
    info = await world.domains.info(vm.id)
    has_kib = info.memory_kib if info is not None else 0
    most_kib = has_kib + await world.ledger.free_kib()
    target_kib = max(minimum >> 10, min(maximum >> 10, plan.static_max_kib, most_kib))
    # The limit first when it grows, so that the guest is not refused; xl's slack above it stays.
    await world.xc.set_max_mem(domid, target_kib + plan.max_kib - plan.static_max_kib)
    await world.xs.commit(
        [
            Write(f"{layout.domain(domid)}/memory/dynamic-min", str(minimum >> 10)),
            Write(f"{layout.domain(domid)}/memory/dynamic-max", str(maximum >> 10)),
            Write(f"{layout.domain(domid)}/memory/target", str(target_kib - plan.video_kib)),
            Write(f"{layout.private(domid)}/target", str(target_kib)),
        ]
    )
    world.trees.touch(domid)


async def set_shadow_multiplier(world: World, vm: Vm, multiplier: float) -> None:
    """Resize shadow or p2m memory. Raises `NotEnoughMemory`."""
    if isinstance(vm.ty, Pv):
        raise Unimplemented("vm.set_shadow_multiplier")
    domid = await built(world, vm)
    wanted_mib, has_mib = shadow(vm, multiplier), await world.xc.get_shadow_allocation(domid)
    free_kib = await world.ledger.free_kib()
    if (wanted_mib - has_mib) << 10 > free_kib:
        raise NotEnoughMemory((wanted_mib - has_mib) << 20, max(0, free_kib) << 10)
    await world.xc.set_shadow_allocation(domid, wanted_mib)
    await world.xs.commit([Write(f"{layout.private(domid)}/shadow-multiplier", str(multiplier))])
    world.trees.touch(domid)


async def set_xsdata(world: World, vm: Vm, xsdata: dict[str, str]) -> None:
    """Replace vm-data/."""
    domid = world.domains.require(vm.id)
    top, owns = layout.domain(domid), (f"n{domid}",)
    changes: list[Change] = [Remove(f"{top}/vm-data"), Mkdir(f"{top}/vm-data", owns)]
    changes += [Write(f"{top}/{key}", value) for key, value in layout.guest_data(xsdata).items()]
    await world.xs.commit(changes)
    world.trees.touch(domid)


async def s3suspend(world: World, vm: Vm) -> None:
    """Ask for ACPI sleep. Raises `FailedToAcknowledgeSuspendRequest`: Linux, for one, knows no such request."""
    await _emulated(world, vm, "vm.s3suspend")
    within_s = min(world.options.suspend_timeout, _SLEEP_S)
    if not await shutdown.request(world, vm, ShutdownReason.S3, within_s):
        raise FailedToAcknowledgeSuspendRequest(vm.id, within_s)


async def s3resume(world: World, vm: Vm) -> None:
    """Wake it."""
    domid = await _emulated(world, vm, "vm.s3resume")
    await world.xc.set_hvm_param(domid, HvmParam.ACPI_S_STATE, 0)


async def _emulated(world: World, vm: Vm, call: str) -> int:
    if not isinstance(vm.ty, Hvm):
        raise Unimplemented(call)
    return await built(world, vm)


async def run_script(world: World, vm: Vm, script: str) -> dict[str, Any]:
    """Have the guest's agent run it: control/batcmd/state goes READY, IN PROGRESS, and SUCCESS, TRUNCATED or FAILURE."""
    domid = world.domains.require(vm.id)
    top = layout.domain(domid)
    batch, owns = f"{top}/control/batcmd", (f"n{domid}",)
    if await world.xs.read(f"{top}/control/feature-xs-batcmd") is None:
        raise Unimplemented("vm.run_script")

    async def ask(transaction: Transaction) -> bool:
        if await transaction.read(f"{batch}/state") not in (None, ""):
            return False
        await transaction.write(f"{batch}/script", script)
        await transaction.write(f"{batch}/state", "READY")
        return True

    await world.xs.commit([Mkdir(batch, owns)])
    if not await world.xs.transact(ask):
        raise FailedToRunScript("another script runs in the guest")
    ends = ("SUCCESS", "TRUNCATED", "FAILURE", None)
    try:
        await world.xs.wait_for([f"{batch}/state"], lambda values: values[f"{batch}/state"] in ends, _SCRIPT_S)
        state, code, out, err = await world.xs.read_many(
            [f"{batch}/state", f"{batch}/return", f"{batch}/stdout", f"{batch}/stderr"]
        )
    finally:
        await world.xs.commit([Remove(batch)])
    if state in (None, "FAILURE"):
        raise FailedToRunScript("the guest's agent could not run it")
    return {"rc": int(code) if code and code.isdigit() else 0, "stdout": _cut(out), "stderr": _cut(err)}


def _cut(untrusted: str | None) -> str:
    text = (untrusted or "").encode("utf-8", "replace").decode()
    return text if len(text) <= _SCRIPT_OUTPUT else text[:_SCRIPT_OUTPUT] + " (truncated)"
