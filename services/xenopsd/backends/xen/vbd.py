# SPDX-License-Identifier: Apache-2.0
"""Drives: blkback serves block devices and raw files, a QEMU serves other formats and what is shown by emulation alone,
a driver domain serves what it has itself.

Nothing of a drive's bytes passes here. What was plugged is found again in the note beside it (see `connection`).
"""

import asyncio
import logging
from itertools import count
from pathlib import Path

import msgspec

from xenops.errors import (
    AlreadyExists,
    BadRequest,
    DeviceDetachRejected,
    DeviceNotConnected,
    IoError,
    MediaPresent,
    StepTimedOut,
    Unimplemented,
)
from xenops.types.device_number import DeviceNumber
from xenops.types.disk import Disk, RemoteDisk
from xenops.types.record import UNSET
from xenops.types.vbd import Mode, Qos, Vbd, VbdState, VbdType
from xenops.types.vm import Hvm, Pv, Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devices import drive, hotplug, loop, medium, xenbus
from xenopsd.backends.xen.devices.back_ends import BackEnds
from xenopsd.backends.xen.devices.connection import Connections, Place
from xenopsd.backends.xen.devices.hotplug import Hotplug
from xenopsd.backends.xen.devices.medium import SHARED_MODE, Medium, Way
from xenopsd.backends.xen.devices.priority import prioritise
from xenopsd.backends.xen.devices.rooms import Host
from xenopsd.backends.xen.devices.xenbus import State
from xenopsd.backends.xen.xenstore.changes import Change, Write

log = logging.getLogger(__name__)

_MEET_S = 5.0  # a guest with a driver takes a drive within half a second
_LET_GO_S = 30.0
_DRIVER_DOMAIN_S = 30.0
_AT_REST_S, _QUIET_LOOKS = 30.0, 2
_ACCEPTED_S, _LOOK_AGAIN_S, _ASK_EVERY = 10.0, 0.002, 16
_SYSFS = Path("/sys")


class XenVbd:
    """Drives."""

    def __init__(
        self, world: Host, *, sysfs: Path = _SYSFS, let_go_s: float = _LET_GO_S, meet_s: float = _MEET_S
    ) -> None:
        self._world, self._xs = world, world.xs
        self._sysfs, self._let_go_s, self._meet_s = sysfs, let_go_s, meet_s
        self._connections = Connections(world.xs, "vbd", ("qdisk",))
        self._hotplug = Hotplug(world.xs, world.run_program, run_s=world.options.hotplug_timeout)
        self._back_ends = BackEnds(world.xs, world.domains.machine, world.domains.info, world.changed)

    async def follow(self) -> None:
        """Tell of what happens to devices of any kind by itself, until cancelled."""
        await self._back_ends.follow()

    async def plug(self, vm: Vm, vbd: Vbd) -> None:
        domid = self._world.domains.require(vm.id)
        hvm = isinstance(vm.ty, Hvm)
        if vbd.backend is UNSET and not hvm:
            return  # an empty drive that no device model shows is no device at all
        if await self._connections.find(domid, vbd.id.dev) is not None:
            raise AlreadyExists("vbd", str(vbd.position or vbd.id.dev))
        while True:
            number = await self._number(domid, vbd, hvm=hvm)
            try:
                await self._plug(vm, domid, vbd, number)
            except AlreadyExists:
                if vbd.position is not UNSET:
                    raise
                continue  # another one that says nothing of its place was faster
            return

    async def unplug(self, vm: Vm, vbd: Vbd, *, force: bool) -> None:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vbd.id.dev)
        if place is None:
            return
        if not force:
            await self._ask_guest(vm, vbd, place)
        await self._remove([place])

    async def sweep(self, domid: int) -> None:
        """Take away all drives that a domain has or had. Idempotent."""
        ours = list((await self._connections.noted(domid)).values())
        foreign = await self._connections.unnoted(domid)
        made_by_xl = await self._loops_of(foreign)
        await self._remove([*ours, *foreign])
        for device, file in made_by_xl:
            await asyncio.to_thread(loop.clear, device, file)
        await self._connections.clean(domid)

    async def bound(self, domid: int) -> list[str]:
        """Drives whose back ends we cannot see come to rest, or that nobody would plug into another domain."""
        noted = await self._connections.noted(domid)
        scripts = await self._xs.read_many([f"{place.note}/script" for place in noted.values()]) if noted else []
        foreign = await self._connections.unnoted(domid)
        served = [f"{dev} (driver domain {place.backend} serves it)" for dev, place in noted.items() if place.backend]
        made = [f"{dev} (the script {script} made it)" for dev, script in zip(noted, scripts, strict=True) if script]
        plugged = [f"{DeviceNumber.from_key(place.devid).name} (another tool plugged it)" for place in foreign]
        return [f"drive {each}" for each in (*served, *made, *plugged)]

    async def drain(self, domid: int) -> None:
        """Wait until the control domain's disks have done what the suspended guest asked of them. Raises `StepTimedOut`."""
        places = (await self._connections.noted(domid)).values()
        served = [f"{place.back}/physical-device" for place in places if not (place.back_kind or place.backend)]
        for device in await self._xs.read_many(served) if served else []:
            if device:
                await self._at_rest(device)
        if any(place.back_kind for place in places):
            await self._world.device_models.let_go_of_disks(domid)

    async def insert(self, vm: Vm, vbd: Vbd, disk: Disk) -> None:
        domid = self._world.domains.require(vm.id)
        place = await self._connections.find(domid, vbd.id.dev)
        full = msgspec.structs.replace(vbd, backend=disk)
        if place is None and not isinstance(vm.ty, Hvm):
            await self.plug(vm, full)
            return
        if place is None:
            raise DeviceNotConnected("vbd", str(vbd.id))
        if (await self.state(vm, vbd)).backend_present is not UNSET:
            raise MediaPresent(str(vbd.id))
        looked = await self._look(full, hvm=True)
        await self._change_medium(place, disk, looked)

    async def eject(self, vm: Vm, vbd: Vbd) -> None:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vbd.id.dev)
        if place is None:
            return
        if not isinstance(vm.ty, Hvm):
            await self.unplug(vm, vbd, force=False)
            return
        await self._change_medium(place, None, None)

    async def epoch_begin(self, vm: Vm, vbd: Vbd) -> None:
        if not vbd.persistent:
            raise Unimplemented("resetting a disk at each start without a storage service")

    async def epoch_end(self, vm: Vm, vbd: Vbd) -> None:
        return

    async def set_qos(self, vm: Vm, vbd: Vbd, qos: Qos | None) -> None:
        place = await self._connections.find(self._world.domains.require(vm.id), vbd.id.dev)
        if place is None:
            raise DeviceNotConnected("vbd", str(vbd.id))
        text = msgspec.json.encode(qos).decode() if qos else ""
        await self._xs.commit([Write(f"{place.note}/qos", text), Write(f"{place.note}/qos-applied", "")])
        _, back = await self._connections.states(place)
        if back is State.CONNECTED:  # before that there is no thread to give it to
            await prioritise(self._xs, self._world.run_program, place, qos)
            await self._xs.commit([Write(f"{place.note}/qos-applied", text)])

    async def state(self, vm: Vm, vbd: Vbd) -> VbdState:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vbd.id.dev)
        if place is None:
            return VbdState()
        told, qos, params, noted = await self._xs.read_many(
            [f"{place.note}/medium", f"{place.note}/qos", f"{place.back}/params", f"{place.note}/params"]
        )
        return VbdState(
            plugged=True, qos_target=drive.qos(qos), backend_present=drive.medium_present(told, noted, params)
        )

    async def get_action(self, vm: Vm, vbd: Vbd) -> DeviceAction | None:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vbd.id.dev)
        if place is None:
            return None
        keys = [f"{place.back}/{key}" for key in ("state", "online", "hotplug-status", "node")]
        state, online, status, node, qos, applied = await self._xs.read_many(
            [*keys, f"{place.note}/qos", f"{place.note}/qos-applied"]
        )
        back = xenbus.parse(state)
        # We may have been killed while it was plugged: its script did not end, or its loop device went with us.
        half_made = not status or (node is not None and not loop.serves(node, sysfs=self._sysfs))
        if half_made or online != "1" or xenbus.is_ending(back) or xenbus.has_ended(back):
            return DeviceAction.UNPLUG
        if drive.qos(qos) != vbd.qos or (qos and qos != applied and back is State.CONNECTED):
            return DeviceAction.SET_QOS
        return None

    async def ejected(self, domid: int, devid: int) -> None:
        """The guest has opened a drive that the device model shows: there is no medium in it any more."""
        for place in (await self._connections.noted(domid)).values():
            if place.devid == devid:
                await self._xs.commit(_medium_changes(place, None, ""))

    async def _number(self, domid: int, vbd: Vbd, *, hvm: bool) -> DeviceNumber:
        if vbd.position is UNSET:
            places = (await self._connections.noted(domid)).values()
            return drive.next_number([place.devid for place in places], hvm=hvm)
        try:
            return DeviceNumber.parse(vbd.position, hvm=hvm)
        except ValueError as error:
            raise BadRequest("position", str(error)) from error

    async def _look(self, vbd: Vbd, *, hvm: bool) -> Medium | None:
        """What is in the drive. Raises `IoError`."""
        if vbd.backend is UNSET:
            return None
        script = vbd.extra_backend_keys.get("script", "")
        return await asyncio.to_thread(
            medium.look,
            vbd.backend,
            read_only=_read_only(vbd),
            emulated=hvm and vbd.ty is not VbdType.DISK,
            exclusive=not _shared(vbd),
            script=hotplug.located(script) if script else "",
            ways=tuple(Way),
        )

    async def _plug(self, vm: Vm, domid: int, vbd: Vbd, number: DeviceNumber) -> None:
        looked = await self._look(vbd, hvm=isinstance(vm.ty, Hvm))
        qdisk = looked is None or looked.way is Way.QDISK
        place = Place("vbd", domid, number.to_key(), self._backend(vbd), back_kind="qdisk" if qdisk else "")
        key = (place.back_kind or "vbd", domid, place.devid)
        if looked is not None and looked.identity is not None and not _shared(vbd):
            await self._back_ends.claim(key, looked.identity, path=looked.path, writes=not _read_only(vbd))
        held: loop.Loop | None = None
        try:
            if looked is not None and looked.way is Way.FILE:
                held = await loop.attach(looked.path, read_only=_read_only(vbd))
            nodes = drive.nodes(vbd, number, looked, held, pv=isinstance(vm.ty, Pv))
            await self._connections.create(place, nodes, vm=vm.id, called=str(vbd.position or number.name))
            await self._serve(vm, place, looked, vbd)
        except BaseException as error:
            self._back_ends.release(key)
            if held is not None:
                held.close()
            if not isinstance(error, AlreadyExists):  # then what is there is another one's
                await self._remove([place])
            raise
        if held is not None:
            held.close()  # its back end has it open now

    def _backend(self, vbd: Vbd) -> int:
        """Which domain serves it. Raises `DoesNotExist` when the driver domain does not run."""
        return self._world.domains.require(vbd.backend.vm) if isinstance(vbd.backend, RemoteDisk) else 0

    async def _serve(self, vm: Vm, place: Place, looked: Medium | None, vbd: Vbd) -> None:
        """Until the back end has the disk, and a running guest has had its chance to take it."""
        if place.back_kind == "qdisk":
            if not await self._world.device_models.serves_disks(vm, place.domid):
                return  # the device model is not there yet, and finds the disk when it starts
            await self._taken_by_qemu(place, looked.path if looked else "")
        else:
            if looked is not None and looked.way is Way.SCRIPT:
                await self._hotplug.add(hotplug.located(vbd.extra_backend_keys["script"]), "add", place)
            await self._connections.ready(place)
        if place.backend:
            await self._hotplug.connected(place, f"driver domain {place.backend}", _DRIVER_DOMAIN_S)
        elif not place.back_kind:
            await self._accepted(place)
        info = await self._world.domains.info(vm.id)
        if info is not None and not info.paused and not info.shutdown:
            await self._connections.meet(place, within_s=self._meet_s)

    async def _taken_by_qemu(self, place: Place, path: str) -> None:
        """QEMU has no way to tell in xenstore that it cannot: it complains aloud. Raises `IoError`."""
        ready = asyncio.create_task(self._connections.ready(place))
        refused = asyncio.create_task(self._world.device_models.disk_refused(place.domid, place.devid))
        try:
            await asyncio.wait((ready, refused), return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise IoError(path or place.back, refused.result())
            ready.result()
        finally:
            ready.cancel()
            refused.cancel()
            await asyncio.gather(ready, refused, return_exceptions=True)

    async def _accepted(self, place: Place) -> None:
        """blkback opens the device a moment after it says that it waits, and tells only when it cannot: so we look."""
        opened = self._sysfs / f"bus/xen-backend/devices/vbd-{place.domid}-{place.devid}/physical_device"
        try:
            async with asyncio.timeout(_ACCEPTED_S):
                for look in count(1):
                    if opened.exists():
                        return
                    if look % _ASK_EVERY == 0:
                        await self._connections.accepted(
                            place, *await self._xs.read_many([f"{place.back}/state", f"{place.back_error}/error"])
                        )
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise StepTimedOut(f"blkback opening the disk of {place.back}", _ACCEPTED_S) from None

    async def _at_rest(self, device: str) -> None:
        """blkback's requests are the block device's; that they are done is announced by nothing, so we look.

        What the guest put into the ring last may be on its way from there: only the second look in a row counts.
        """
        quiet = 0
        try:
            async with asyncio.timeout(_AT_REST_S):
                while quiet < _QUIET_LOOKS:
                    busy = await asyncio.to_thread(medium.in_flight, device, self._sysfs)
                    quiet = 0 if busy else quiet + 1
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise StepTimedOut(f"block device {device} answering the guest's last requests", _AT_REST_S) from None

    async def _ask_guest(self, vm: Vm, vbd: Vbd, place: Place) -> None:
        """Raises `DeviceDetachRejected`; nobody is asked who cannot have it in use."""
        info = await self._world.domains.info(vm.id)
        front, back = await self._connections.states(place)
        if info is None or info.shutdown or not xenbus.in_use(front) or xenbus.has_ended(back):
            return
        if info.paused:
            raise DeviceDetachRejected("VBD", str(vbd.id), "it is paused and cannot answer")
        reason = await self._connections.close(place, within_s=self._let_go_s)
        if reason is not None:
            raise DeviceDetachRejected("VBD", str(vbd.id), reason)

    async def _loops_of(self, places: list[Place]) -> list[tuple[str, tuple[int, int]]]:
        """The loop devices of drives that xl plugged into a domain of ours, each with its file: xl will not clear them."""
        wanted = [f"{place.back}/{key}" for place in places for key in ("node", "params")]
        values = await self._xs.read_many(wanted) if wanted else []
        found = []
        for node, path in zip(values[::2], values[1::2], strict=True):
            identity = medium.identity_of_file(path or "")
            if node and node.startswith("/dev/loop") and identity is not None and identity[0] == "file":
                found.append((node, identity[1:]))
        return found

    async def _remove(self, places: list[Place]) -> None:
        """Without asking any more; afterwards no loop device is left either."""
        wanted = [f"{place.back}/{key}" for place in places for key in ("physical-device", "node")]
        values = await self._xs.read_many(wanted) if wanted else []
        await self._connections.force(places, between=self._release_scripted)
        for place in places:
            self._back_ends.release((place.back_kind or "vbd", place.domid, place.devid))
        for device, node in zip(values[::2], values[1::2], strict=True):
            major, _, minor = (device or "").partition(":")
            if node and major == f"{loop.MAJOR:x}" and not await loop.cleared(int(minor, 16), sysfs=self._sysfs):
                log.warning("somebody else still has %s open", node)

    async def _release_scripted(self, place: Place) -> None:
        script = await self._xs.read(f"{place.note}/script")
        if script:
            await self._hotplug.remove(script, "remove", place)

    async def _change_medium(self, place: Place, disk: Disk | None, looked: Medium | None) -> None:
        await self._world.device_models.change_medium(place.domid, place.devid, looked.path if looked else None)
        await self._xs.commit(_medium_changes(place, disk, looked.params if looked else ""))


def _medium_changes(place: Place, disk: Disk | None, params: str) -> list[Change]:
    text = msgspec.json.encode(disk).decode() if disk is not None else ""
    return [
        Write(f"{place.note}/medium", text),
        Write(f"{place.note}/params", params),
        *(Write(f"{folder}/params", params) for folder in (place.back, place.xl)),
    ]


def _read_only(vbd: Vbd) -> bool:
    return vbd.mode is Mode.READ_ONLY or vbd.ty is VbdType.CDROM


def _shared(vbd: Vbd) -> bool:
    return vbd.extra_backend_keys.get("mode") == SHARED_MODE
