# SPDX-License-Identifier: Apache-2.0
"""A guest's memory on its way to another domain of this host: an image as that of a suspended guest, which is never on a disk.

    source's builder ──pipe──> send ──Outlet … Inlet──> receive ──pipe──> twin's builder

Each piece that travels says in its first byte what it is: first a note of how large the guest is, then nothing but the image. The
memory is sent while the guest runs, round by round; a PV guest's only while it sleeps, for Xen keeps no account of the pages that it
writes to.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from xenops.errors import IoError, MigrationFailed, Unimplemented
from xenops.types.metadata import Metadata
from xenops.types.vm import PowerState, Pv, Vm
from xenopsd.backends.port import Inlet, Outlet, Progress, twin_id
from xenopsd.backends.xen.builder.orders import Saved
from xenopsd.backends.xen.domain import creation, suspension
from xenopsd.backends.xen.domain.shelf import Suspended as Note
from xenopsd.backends.xen.domain.state import power_state
from xenopsd.backends.xen.domctl import DomainInfo
from xenopsd.backends.xen.migration.pipe import Pipe
from xenopsd.backends.xen.world import World

T = TypeVar("T")

_NOTE, _IMAGE = b"N", b"I"
_GIVE_UP_S = 30.0  # that a builder has to put everything back, once nobody reads what it writes


async def send(
    world: World, vm: Vm, outlet: Outlet, progress: Progress, before_suspend: Callable[[], Awaitable[None]]
) -> int:
    """Send the guest, which is then suspended in place; how many rounds that took. Raises `MigrationFailed`, as `save`."""
    info = await _movable(world, vm)
    saving = suspension.Saving(world, vm, info, before_suspend)
    try:
        await outlet.send(_NOTE + msgspec.msgpack.encode(await suspension.noted(world, vm, info)))
        with Pipe() as pipe:

            async def save() -> Saved:
                saved = await saving.run(pipe.into, progress, moves=True, live=not isinstance(vm.ty, Pv))
                pipe.finish()
                return saved

            return (await _together(save(), _forward(pipe, outlet), pipe.stop_reading)).rounds + 1
    except BaseException:
        await suspension.wake(world, vm)
        raise


async def receive(world: World, machine: Metadata, inlet: Inlet, progress: Progress) -> None:
    """Fill the created domain. Raises `MigrationFailed`, as `restore`."""
    vm = machine.vm.id
    if vm not in (twin_id(other) for other, _ in world.domains.items()):
        raise Unimplemented("migration to this Xen from another host")
    note = _parse_note(vm, await inlet.receive())
    with Pipe() as pipe:

        async def restore() -> None:
            try:
                await creation.restore(world, machine, Path(pipe.out_of), progress, note=note, pipe=True)
            except IoError as error:
                raise MigrationFailed(vm, f"what arrived cannot be used: {error}") from error
            pipe.stop_reading()

        await _together(restore(), _feed(vm, inlet, pipe), pipe.finish)


async def _movable(world: World, vm: Vm) -> DomainInfo:
    """Its domain. Raises `MigrationFailed` for what cannot go to another one."""
    info = await world.domains.info(vm.id)
    if info is not None and power_state(info) is PowerState.PAUSED:
        raise MigrationFailed(vm.id, "it is paused, and only a guest that runs can suspend itself: unpause it first")
    info = await suspension.in_state(world, vm, PowerState.RUNNING)
    bound = [each for kind in world.devices for each in await kind.bound(info.domid)]
    if bound:
        raise MigrationFailed(vm.id, f"it has what cannot go to another domain, unplug it first: {', '.join(bound)}")
    return info


async def _forward(pipe: Pipe, outlet: Outlet) -> None:
    while data := await pipe.read():
        await outlet.send(_IMAGE + data)


async def _feed(vm: str, inlet: Inlet, pipe: Pipe) -> None:
    try:
        while (untrusted := await inlet.receive()) is not None:
            if untrusted[:1] != _IMAGE:
                raise MigrationFailed(vm, "what arrived cannot be used: a piece is no part of an image")
            await pipe.write(untrusted[1:])
    except BrokenPipeError:
        raise MigrationFailed(vm, "what arrived cannot be used: it goes on after its end") from None
    pipe.finish()


def _parse_note(vm: str, untrusted: bytes | None) -> Note:
    try:
        if untrusted is None or untrusted[:1] != _NOTE:
            raise MigrationFailed(vm, "what arrived cannot be used: it does not begin with a note")
        return msgspec.msgpack.decode(untrusted[1:], type=Note)
    except msgspec.MsgspecError as error:
        raise MigrationFailed(vm, f"what arrived cannot be used: {error}") from None


async def _together(order: Coroutine[Any, Any, T], carry: Coroutine[Any, Any, None], hang_up: Callable[[], None]) -> T:
    """Carry out a builder's order and carry its bytes. Where either fails the other ends, a builder by itself: it puts back what it did.

    What went wrong on the way is told rather than what the builder makes of that.
    """
    ordering, carrying = asyncio.ensure_future(order), asyncio.ensure_future(carry)
    try:
        await asyncio.wait((ordering, carrying), return_when=asyncio.FIRST_EXCEPTION)
        if carrying.done():
            carrying.result()
        return ordering.result()
    finally:
        carrying.cancel()
        await asyncio.gather(carrying, return_exceptions=True)
        hang_up()
        await asyncio.wait((ordering,), timeout=_GIVE_UP_S)
        ordering.cancel()
        await asyncio.gather(ordering, return_exceptions=True)
