# SPDX-License-Identifier: Apache-2.0
"""How a machine gets its domain: made, given memory and a kernel (or an image of its memory), and taken away.

create     an empty, paused domain with its tree, noted as one to be discarded
build      vCPUs, limits, event channels; a builder fills the memory; xenstored is introduced to the guest
restore    the same, from an image
destroy    the device model, the domain, its devices, its trees
"""

import asyncio
import logging
import re
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from uuid import UUID

from xenops.errors import (
    AlreadyExists,
    BadRequest,
    BootloaderError,
    DoesNotExist,
    HypercallFailed,
    StepTimedOut,
    Unimplemented,
)
from xenops.types.metadata import Metadata
from xenops.types.vm import Direct, Hvm, Pv, Pvh, Vm
from xenopsd.backends.port import Progress
from xenopsd.backends.xen.builder.orders import Build, GuestKind, Restore
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.bootloader import booting
from xenopsd.backends.xen.domain.layout import Rings, handle_of
from xenopsd.backends.xen.domain.memory import MemoryPlan, plan_memory
from xenopsd.backends.xen.domain.possible import paging, refuse_impossible
from xenopsd.backends.xen.domain.shelf import Suspended
from xenopsd.backends.xen.domctl import (
    EMULATE_ALL,
    EMULATE_LAPIC,
    EMULATE_NOTHING,
    CreateDomain,
    HvmParam,
    Outfit,
    PhysInfo,
    Scheduling,
    Shutdown,
)
from xenopsd.backends.xen.platform import figure, flag
from xenopsd.backends.xen.world import World

log = logging.getLogger(__name__)

_ZOMBIE_S = 10.0
_LOOK_AGAIN_S = 0.02
_EVENT_CHANNELS = 1023  # as xl: more than a guest of this size ever has
_EMULATED = {GuestKind.PV: EMULATE_NOTHING, GuestKind.PVH: EMULATE_LAPIC, GuestKind.HVM: EMULATE_ALL}
# What xl gives a guest that asks for Viridian: base, frequencies, time reference count, APIC assistance, crash registers.
_VIRIDIAN = 0b1100101
_SECONDS = re.compile(r"-?[0-9]{1,10}")
_CMDLINE_LIMIT = 1023  # xen.h: MAX_GUEST_CMDLINE, with its last zero
_TIMER_MODE = 1  # as xl: ticks that were missed are not made up for


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
    """An empty domain. Raises `AlreadyExists`, `BadRequest`, `Unimplemented`, `HypercallFailed`."""
    kind = kind_of(vm)
    refuse_impossible(vm, kind, world.host)
    old = await world.domains.info(vm.id)
    if old is not None and not (old.shutdown and old.shutdown_reason == Shutdown.SUSPEND):
        raise AlreadyExists("domain", vm.id)
    await destroy(world, vm)  # one that is suspended in place, or what is left of one that vanished
    await world.domains.create(vm, lambda handle: _wanted(vm, kind, world.host, handle))


def _wanted(vm: Vm, kind: GuestKind, host: PhysInfo, handle: UUID) -> CreateDomain:
    hvm = kind is not GuestKind.PV
    return CreateDomain(
        handle=handle,
        max_vcpus=vm.vcpu_max,
        hvm=hvm,
        hap=hvm and paging(vm, host),
        oos_off=hvm,
        iommu=host.directio and getattr(vm.ty, "pci_passthrough", False),  # without one, `pci` says what may be plugged
        nested_virt=kind is GuestKind.HVM and flag(vm, "nested-virt", default=False),
        vpmu=flag(vm, "vpmu", default=False),
        msr_relaxed=flag(vm, "msr-relaxed", default=False),
        emulation_flags=_EMULATED[kind],
        max_evtchn_port=_EVENT_CHANNELS,
        max_grant_frames=figure(vm, "max_grant_frames", 64),
        max_maptrack_frames=figure(vm, "max_maptrack_frames", 1024),
        ssidref=vm.ssidref,
    )


async def build(world: World, machine: Metadata, *, force: bool) -> None:
    """Fill it. Raises `NotEnoughMemory`, `BootloaderError`, `IoError`, `HypercallFailed`."""
    vm = machine.vm
    domid = world.domains.require(vm.id)
    plan = plan_memory(vm)
    async with world.ledger.reserved(domid, plan.needed_kib, force=force), _kernel(world, machine) as kernel:
        timeoffset = _timeoffset(world, vm)
        store_port, console_port = await world.xc.outfit(domid, _outfit(vm, plan, timeoffset))
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
            vcpus_online=vm.vcpus,
            video_mib=plan.video_kib >> 10,
            store_port=store_port,
            console_port=console_port,
        )
        async with world.builders.take() as builder:
            done = await builder.build(order)
            rings = Rings(done.store_mfn, store_port, done.console_mfn, console_port)
            await _introduce(world, vm, domid, rings, plan, timeoffset=timeoffset)


async def restore(
    world: World, machine: Metadata, path: Path, progress: Progress, *, note: Suspended | None, pipe: bool = False
) -> None:
    """Fill it from an image, or from a pipe where one comes out. Raises `NotEnoughMemory`, `IoError`, `HypercallFailed`."""
    vm = machine.vm
    domid = world.domains.require(vm.id)
    plan = plan_memory(vm, target_bytes=note.memory_bytes if note else None)
    async with world.ledger.reserved(domid, plan.needed_kib, force=False):
        timeoffset = (note.timeoffset if note else "") or _timeoffset(world, vm)
        store_port, console_port = await world.xc.outfit(domid, _outfit(vm, plan, timeoffset))
        order = Restore(
            domid=domid,
            path=str(path),
            hvm=kind_of(vm) is not GuestKind.PV,
            store_port=store_port,
            console_port=console_port,
            qemu_state_path=str(world.device_models.saved_state(domid)),
            pipe=pipe,
        )
        async with world.builders.take() as builder:
            done = await builder.restore(order, progress=progress)
            rings = Rings(done.store_mfn, store_port, done.console_mfn, console_port)
            if note and note.vcpus:
                await world.xs.commit(layout.vcpus(domid, vm.vcpu_max, min(note.vcpus, vm.vcpu_max)))
            if note and note.target_bytes:  # as it was: what the guest makes of it goes by where it began
                plan = replace(plan, target_kib=note.target_bytes >> 10)
            await _introduce(world, vm, domid, rings, plan, timeoffset=timeoffset)


async def destroy(world: World, vm: Vm) -> None:
    """The domain and all that belongs to it. Idempotent. Raises `StepTimedOut` when Xen cannot let go of it."""
    domid = world.domains.domid(vm.id)
    if domid is None:
        return
    await keep_clock(world, vm, domid)
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


def _outfit(vm: Vm, plan: MemoryPlan, timeoffset: str) -> Outfit:
    """Limits, processors, the clock, and what a guest finds of a PC."""
    priority = vm.scheduler_params.priority
    return Outfit(
        vcpus=vm.vcpu_max,
        max_memory_kib=plan.max_kib,
        shadow_mib=plan.shadow_mib,
        memory_map_kib=vm.memory_static_max >> 10 if isinstance(vm.ty, Pv) else 0,
        time_offset_s=int(timeoffset),
        hvm_params=_hvm_params(vm),
        scheduling=Scheduling(priority.weight, priority.cap) if priority else None,
        affinity=_affinity(vm),
    )


def _hvm_params(vm: Vm) -> dict[HvmParam, int]:
    if isinstance(vm.ty, Pv):
        return {}
    params = {HvmParam.TIMER_MODE: figure(vm, "timer_mode", _TIMER_MODE, most=3)}
    if isinstance(vm.ty, Hvm):
        params[HvmParam.HPET_ENABLED] = int(flag(vm, "hpet", default=True))
        if flag(vm, "viridian", default=False):
            params[HvmParam.VIRIDIAN] = _VIRIDIAN
    return params


def _affinity(vm: Vm) -> dict[int, list[int]]:
    """Where each vCPU may run; those that are not named are where the first is."""
    registered = vm.scheduler_params.affinity
    places = {vcpu: registered[vcpu if vcpu < len(registered) else 0] for vcpu in range(vm.vcpu_max) if registered}
    return {vcpu: cpus for vcpu, cpus in places.items() if cpus}


async def _introduce(world: World, vm: Vm, domid: int, rings: Rings, plan: MemoryPlan, *, timeoffset: str) -> None:
    await world.xs.commit(layout.built(vm, handle_of(vm.id), domid, rings, plan, timeoffset=timeoffset))
    world.trees.touch(domid)
    world.trees.follow(domid)  # from here on others write there too
    await world.xs.introduce(domid, rings.store_frame, rings.store_port)
    world.domains.built.add(domid)


@asynccontextmanager
async def _kernel(world: World, machine: Metadata) -> AsyncIterator[Kernel]:
    """What the machine boots, for as long as it is needed."""
    match machine.vm.ty:
        case Hvm():
            yield Kernel(str(world.programs["hvmloader"]), firmware=str(world.programs["seabios"]))
        case Pv(boot=Direct() as boot) | Pvh(boot=Direct() as boot):
            if too_long := _too_long(boot.cmdline):
                raise BadRequest("vm.ty.boot.cmdline", too_long)
            yield Kernel(boot.kernel, str(boot.ramdisk) if boot.ramdisk else None, boot.cmdline)
        case _:
            async with booting(world, machine) as found:
                if too_long := _too_long(found.cmdline):
                    raise BootloaderError(machine.vm.id, f"the command line that it found {too_long}")
                yield Kernel(str(found.kernel), str(found.ramdisk) if found.ramdisk else None, found.cmdline)


def _too_long(cmdline: str) -> str:
    """What is to be said of a command line of which Xen would cut off the end in silence; usually nothing."""
    length = len(cmdline.encode())
    return f"is {length} bytes long; Xen takes {_CMDLINE_LIMIT}" if length > _CMDLINE_LIMIT else ""


async def keep_clock(world: World, vm: Vm, domid: int) -> None:
    """A guest that has set its clock finds it so the next time."""
    if isinstance(vm.ty, Hvm):
        with suppress(DoesNotExist, HypercallFailed):  # one that was not built has none
            world.clocks.keep(vm.id, _registered(vm), str(await world.xc.get_clock(domid)))


def _timeoffset(world: World, vm: Vm) -> str:
    """How many seconds its clock is from the host's. Raises `BadRequest`."""
    text = world.clocks.offset(vm.id, _registered(vm)) if isinstance(vm.ty, Hvm) else _registered(vm)
    if not _SECONDS.fullmatch(text):
        raise BadRequest("timeoffset", f"{text!r:.40} is no number of seconds")
    return text


def _registered(vm: Vm) -> str:
    offset = (vm.ty.timeoffset if isinstance(vm.ty, Hvm) else vm.platformdata.get("timeoffset", "")) or "0"
    if flag(vm, "localtime", default=False) and _SECONDS.fullmatch(offset):
        offset = str(int(offset) + time.localtime().tm_gmtoff)
    return offset
