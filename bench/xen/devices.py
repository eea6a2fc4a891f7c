# SPDX-License-Identifier: Apache-2.0
"""Devices: a guest with many of them, and one that is plugged into a guest that runs.

Both toolstacks plug into a guest without front drivers: what is measured is the host's part, until its back end waits.
"""

from bench.xen.desk import Desk, Row, alone, paired, seconds, xl
from tests.xen import guests
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge
from xenops.types.vbd import Vbd
from xenops.types.vif import Vif

DISKS, NICS = 12, 4


async def measure(desk: Desk, runs: int) -> list[Row]:
    """The comparisons."""
    return [await _many(desk, runs), *await _plugged(desk, runs)]


async def _many(desk: Desk, runs: int) -> Row:
    nics = [f"bridge={guests.BRIDGE}"] * NICS
    vm = await desk.add(desk.grub("laden", disk=desk.disks("laden", DISKS), vif=nics))
    theirs = desk.grub("xl-laden", disk=desk.disks("xl-laden", DISKS), vif=nics)

    async def ours() -> float:
        took = await seconds(desk.start(vm, paused=True))
        await desk.shutdown(vm)
        return took

    async def peer() -> float:
        took = await seconds(xl("create", "-p", str(theirs)))
        await xl("destroy", theirs.stem)
        return took

    what = f"start with {DISKS} disks and {NICS} NICs"
    try:
        found = await paired(what, "s", ours, peer, runs=runs)
    except RuntimeError as failed:  # its scripts have ten seconds each, and all of them one processor
        print(failed, flush=True)
        found = alone(f"{what}; xl create fails", "s", await ours())
    await desk.xenops.VM.remove(vm)
    return found


async def _plugged(desk: Desk, runs: int) -> list[Row]:
    vm, theirs = await desk.add(desk.grub("plug")), desk.grub("xl-plug")
    await desk.start(vm, paused=True)
    await xl("create", "-p", str(theirs))
    rows = [await _disk(desk, vm, theirs.stem, runs), await _nic(desk, vm, theirs.stem, runs)]
    await desk.shutdown(vm)
    await desk.xenops.VM.remove(vm)
    await xl("destroy", theirs.stem)
    return rows


async def _disk(desk: Desk, vm: str, theirs: str, runs: int) -> Row:
    image, their_image = desk.image("plug.img"), desk.image("xl-plug.img")
    id = DeviceId(vm=vm, dev="xvdb")

    async def ours() -> float:
        await desk.xenops.VBD.add(Vbd(id=id, position="xvdb", backend=Local(path=str(image))))
        took = await seconds(desk.done(desk.xenops.VBD.plug(id)))
        await desk.done(desk.xenops.VBD.unplug(id, force=True))
        await desk.xenops.VBD.remove(id)
        return took

    async def peer() -> float:
        took = await seconds(xl("block-attach", theirs, f"{their_image},raw,xvdb,rw"))
        await xl("block-detach", "--force", theirs, "xvdb")
        return took

    return await paired("a disk plugged into a live guest", "s", ours, peer, runs=runs)


async def _nic(desk: Desk, vm: str, theirs: str, runs: int) -> Row:
    id = DeviceId(vm=vm, dev="0")

    async def ours() -> float:
        await desk.xenops.VIF.add(Vif(id=id, backend=Bridge(bridge=guests.BRIDGE)))
        took = await seconds(desk.done(desk.xenops.VIF.plug(id)))
        await desk.done(desk.xenops.VIF.unplug(id, force=True))
        await desk.xenops.VIF.remove(id)
        return took

    async def peer() -> float:
        took = await seconds(xl("network-attach", theirs, f"bridge={guests.BRIDGE}"))
        await xl("network-detach", theirs, "0")
        return took

    return await paired("a NIC plugged into a live guest", "s", ours, peer, runs=runs)
