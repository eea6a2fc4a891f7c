# SPDX-License-Identifier: Apache-2.0
"""How a machine gets its domain: made, given memory and a kernel (or an image of its memory), and taken away.

create     an empty, paused domain with its tree, noted as one to be discarded
build      vCPUs, limits, event channels; a builder fills the memory; xenstored is introduced to the guest
restore    the same, from an image
destroy    the device model, the domain, its devices, its trees
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from xenops.errors import AlreadyExists, BadRequest, DoesNotExist, StepTimedOut, Unimplemented
from xenops.types.metadata import Metadata
from xenops.types.vm import Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.port import Progress
from xenopsd.backends.xen.builder.orders import Build, GuestKind, Restore
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.bootloader import booting
from xenopsd.backends.xen.domain.handles import handle_of
from xenopsd.backends.xen.domain.layout import Rings
from xenopsd.backends.xen.domain.memory import MemoryPlan, plan_memory
from xenopsd.backends.xen.domctl import (
    EMULATE_ALL,
    EMULATE_LAPIC,
    EMULATE_NOTHING,
    Affinity,
    CreateDomain,
    Scheduling,
    Shutdown,
)
from xenopsd.backends.xen.world import World

log = logging.getLogger(__name__)

_ZOMBIE_S = 10.0
_LOOK_AGAIN_S = 0.02
_EVENT_CHANNELS = 1023  # as xl: more than a guest of this size ever has
_EMULATED = {GuestKind.PV: EMULATE_NOTHING, GuestKind.PVH: EMULATE_LAPIC, GuestKind.HVM: EMULATE_ALL}
_WORDS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


@dataclass(frozen=True)
class Kernel:
    """What a guest boots."""

    path: str
    ramdisk: str | None = None
    cmdline: str = ""
    firmware: str | None = None


def kind_of(vm: Vm) -> GuestKind:
    """How it is virtualised. Raises `Unimplemented`."""
    match vm.ty:
        case Hvm():
            return GuestKind.HVM
        case Pv():
            return GuestKind.PV
        case Pvh():
            return GuestKind.PVH
        case _:
            raise Unimplemented("vm.build of a PV guest inside PVH")


async def create(world: World, vm: Vm) -> None:
    """An empty domain. Raises `AlreadyExists`, `HypercallFailed`."""
    kind = kind_of(vm)
    old = await world.domains.info(vm.id)
    if old is not None and not (old.shutdown and old.shutdown_reason == Shutdown.SUSPEND):
        raise AlreadyExists("domain", vm.id)
    await destroy(world, vm)  # one that is suspended in place, or what is left of one that vanished

    world.trees.follow(await world.domains.create(vm, lambda handle: _wanted(vm, kind, handle)))


def _wanted(vm: Vm, kind: GuestKind, handle: UUID) -> CreateDomain:
    hvm = kind is not GuestKind.PV
    return CreateDomain(
        handle=handle,
        max_vcpus=vm.vcpu_max,
        hvm=hvm,
        hap=hvm and _flag(vm, "hap", default=True),
        oos_off=hvm,
        iommu=getattr(vm.ty, "pci_passthrough", False),
        nested_virt=kind is GuestKind.HVM and _flag(vm, "nested-virt", default=False),
        vpmu=_flag(vm, "vpmu", default=False),
        msr_relaxed=_flag(vm, "msr-relaxed", default=False),
        emulation_flags=_EMULATED[kind],
        max_evtchn_port=_EVENT_CHANNELS,
        max_grant_frames=_figure(vm, "max_grant_frames", 64),
        max_maptrack_frames=_figure(vm, "max_maptrack_frames", 1024),
        ssidref=vm.ssidref,
    )


def _flag(vm: Vm, key: str, *, default: bool) -> bool:
    """A platform key that is yes or no. Raises `BadRequest`."""
    text = vm.platformdata.get(key)
    if text is None:
        return default
    if text.lower() not in _WORDS:
        raise BadRequest(f"platformdata.{key}", f"{text!r:.40} is neither true nor false")
    return _WORDS[text.lower()]


def _figure(vm: Vm, key: str, default: int) -> int:
    """A platform key that is a number. Raises `BadRequest`."""
    text = vm.platformdata.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) < 8):
        raise BadRequest(f"platformdata.{key}", f"{text!r:.40} is no number")
    return int(text)


async def build(world: World, machine: Metadata, *, force: bool) -> None:
    """Fill it. Raises `NotEnoughMemory`, `BootloaderError`, `IoError`, `HypercallFailed`."""
    vm = machine.vm
    domid = world.domains.require(vm.id)
    plan = plan_memory(vm)
    async with world.ledger.reserved(plan.needed_kib, force=force), _kernel(world, machine) as kernel:
        store_port, console_port = await _prepare(world, vm, domid, plan)
        order = Build(
            domid=domid,
            kind=kind_of(vm),
            kernel=kernel.path,
            ramdisk=kernel.ramdisk,
            cmdline=kernel.cmdline,
            firmware=kernel.firmware,
            memory_max_mib=vm.memory_static_max >> 20,
            memory_target_mib=(plan.target_kib - plan.video_kib) >> 10,
            vcpus=vm.vcpu_max,
            video_mib=plan.video_kib >> 10,
            store_port=store_port,
            console_port=console_port,
        )
        async with world.builders.take() as builder:
            done = await builder.build(order)
            rings = Rings(done.store_mfn, store_port, done.console_mfn, console_port)
            await _introduce(world, vm, domid, rings, plan, timeoffset=_timeoffset(vm))


async def restore(
    world: World, machine: Metadata, path: Path, progress: Progress, *, target_bytes: int | None, timeoffset: str
) -> None:
    """Fill it from an image. Raises `NotEnoughMemory`, `IoError`, `HypercallFailed`."""
    vm = machine.vm
    domid = world.domains.require(vm.id)
    plan = plan_memory(vm, target_bytes=target_bytes)
    async with world.ledger.reserved(plan.needed_kib, force=False):
        store_port, console_port = await _prepare(world, vm, domid, plan)
        order = Restore(
            domid=domid,
            path=str(path),
            hvm=kind_of(vm) is not GuestKind.PV,
            store_port=store_port,
            console_port=console_port,
            qemu_state_path=str(world.device_models.saved_state(domid)),
        )
        async with world.builders.take() as builder:
            done = await builder.restore(order, progress=progress)
            rings = Rings(done.store_mfn, store_port, done.console_mfn, console_port)
            await _introduce(world, vm, domid, rings, plan, timeoffset=timeoffset or _timeoffset(vm))


async def destroy(world: World, vm: Vm) -> None:
    """The domain and all that belongs to it. Idempotent. Raises `StepTimedOut` when Xen cannot let go of it."""
    domid = world.domains.domid(vm.id)
    if domid is None:
        return
    await world.device_models.stop(domid)
    await world.trees.leave(domid)
    with suppress(DoesNotExist):
        await world.xc.destroy(domid)
    for kind in world.devices:
        await kind.sweep(domid)
    await _vanished(world, domid)
    await world.domains.bury(vm.id, domid)


async def _vanished(world: World, domid: int) -> None:
    """Wait until Xen has forgotten it: that its last pages come back is announced by nothing, so we look."""
    end = time.monotonic() + _ZOMBIE_S
    while await world.xc.get_info(domid) is not None:
        if time.monotonic() > end:
            raise StepTimedOut(f"vm.destroy of domain {domid}", _ZOMBIE_S)
        await asyncio.sleep(_LOOK_AGAIN_S)


async def _prepare(world: World, vm: Vm, domid: int, plan: MemoryPlan) -> tuple[int, int]:
    """Limits, processors and the two event channels of an empty domain."""
    xc = world.xc
    await xc.set_max_vcpus(domid, vm.vcpu_max)
    await xc.set_max_mem(domid, plan.max_kib)
    await xc.set_tsc_mode(domid)
    await xc.apply_cpu_policy(domid)
    if plan.shadow_mib:
        await xc.set_shadow_allocation(domid, plan.shadow_mib)
    await schedule(world, vm, domid)
    return await xc.alloc_unbound(domid, 0), await xc.alloc_unbound(domid, 0)


async def schedule(world: World, vm: Vm, domid: int) -> None:
    """Weight, cap and affinity, as registered."""
    params = vm.scheduler_params
    if params.priority:
        await world.xc.set_scheduling(domid, Scheduling(params.priority.weight, params.priority.cap))
    for vcpu in range(vm.vcpu_max):
        cpus = params.affinity[vcpu] if vcpu < len(params.affinity) else params.affinity[0] if params.affinity else []
        if cpus:
            await world.xc.set_affinity(domid, vcpu, Affinity.HARD, cpus)


async def _introduce(world: World, vm: Vm, domid: int, rings: Rings, plan: MemoryPlan, *, timeoffset: str) -> None:
    await world.xs.commit(layout.built(vm, handle_of(vm.id), domid, rings, plan, timeoffset=timeoffset))
    await world.xs.introduce(domid, rings.store_frame, rings.store_port)
    world.trees.touch(domid)


@asynccontextmanager
async def _kernel(world: World, machine: Metadata) -> AsyncIterator[Kernel]:
    """What the machine boots, for as long as it is needed."""
    match machine.vm.ty:
        case Hvm():
            yield Kernel(str(world.programs["hvmloader"]), firmware=str(world.programs["seabios"]))
        case Pv(boot=Direct() as boot) | Pvh(boot=Direct() as boot):
            yield Kernel(boot.kernel, str(boot.ramdisk) if boot.ramdisk else None, boot.cmdline)
        case _:
            async with booting(world, machine) as found:
                yield Kernel(str(found.kernel), str(found.ramdisk) if found.ramdisk else None, found.cmdline)


def _timeoffset(vm: Vm) -> str:
    return (vm.ty.timeoffset if isinstance(vm.ty, Hvm) else "") or "0"
