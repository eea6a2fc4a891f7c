# SPDX-License-Identifier: Apache-2.0
"""Network interfaces: netback makes one in the control domain, and it becomes a port of a Linux bridge.

Its hotplug work is done here unless the record or the setting `xen_vif_script` names a script; in a driver domain
that domain does it. No rule engine is driven: an interface can be cut off, not be held to addresses.
"""

import asyncio
import logging

from xenops.errors import AlreadyExists, DeviceDetachRejected, DeviceNotConnected, IoError, Unimplemented
from xenops.types.network import Bridge, Network, Remote, Sriov
from xenops.types.record import UNSET
from xenops.types.vif import (
    Disabled,
    Ipv4Configuration,
    Ipv6Configuration,
    Locked,
    LockingMode,
    PvsProxy,
    Unspecified4,
    Unspecified6,
    Vif,
    VifState,
)
from xenops.types.vm import Hvm, Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devices import bridge, hotplug, nic, xenbus
from xenopsd.backends.xen.devices.connection import Connections, Place
from xenopsd.backends.xen.devices.hotplug import Hotplug
from xenopsd.backends.xen.devices.rooms import Host
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.xenstore.changes import Change, Write

log = logging.getLogger(__name__)

_MEET_S = 5.0
_LET_GO_S = 30.0
_DRIVER_DOMAIN_S = 30.0
_APPEARED_S, _LOOK_AGAIN_S = 10.0, 0.002


class XenVif:
    """Interfaces."""

    def __init__(self, world: Host, *, let_go_s: float = _LET_GO_S, meet_s: float = _MEET_S) -> None:
        self._world, self._xs = world, world.xs
        self._let_go_s, self._meet_s = let_go_s, meet_s
        self._connections = Connections(world.xs, "vif")
        self._hotplug = Hotplug(world.xs, world.run_program, run_s=world.options.hotplug_timeout)

    async def plug(self, vm: Vm, vif: Vif) -> None:
        domid = self._world.domains.require(vm.id)
        place = Place("vif", domid, vif.position, self._backend(vif.backend))
        if await self._connections.find(domid, vif.id.dev) is not None:
            raise AlreadyExists("vif", str(vif.position))
        if isinstance(vif.locking_mode, Locked):
            raise Unimplemented("holding an interface to addresses (locking mode Locked)")
        if vif.trunks or vif.vlan is not UNSET or vif.pvs_proxy is not UNSET:
            raise Unimplemented("VLANs, trunks and boot-disk caches of an interface on a Linux bridge")
        script = self._script(vif)
        if isinstance(vif.backend, Bridge) and not script:
            await asyncio.to_thread(bridge.check, vif.backend.bridge)
        wanted = nic.nodes(vif, hvm=isinstance(vm.ty, Hvm), script=script, device=_device(place, vif))
        await self._connections.create(place, wanted, vm=vm.id, called=str(vif.position))
        try:
            await self._addresses(place, vif.mac, vif.ipv4_configuration, vif.ipv6_configuration)
            await self._serve(vm, vif, place, script)
        except BaseException:
            await self._remove([place])
            raise

    async def unplug(self, vm: Vm, vif: Vif, *, force: bool) -> None:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vif.id.dev)
        if place is None:
            return
        if not force:
            await self._ask_guest(vm, vif, place)
        await self._remove([place])

    async def sweep(self, domid: int) -> None:
        """Take away all interfaces that a domain has or had. Idempotent."""
        ours = list((await self._connections.noted(domid)).values())
        await self._remove([*ours, *await self._connections.unnoted(domid)])
        await self._connections.clean(domid)

    async def bound(self, domid: int) -> list[str]:
        """Interfaces that nobody would plug into another domain."""
        return [
            f"interface {place.devid} (another tool plugged it)" for place in await self._connections.unnoted(domid)
        ]

    async def drain(self, domid: int) -> None:
        """What is on its way to or from a network may be lost."""

    async def move(self, vm: Vm, vif: Vif, network: Network) -> None:
        place, device, script = await self._plugged(vm, vif)
        if not isinstance(network, Bridge) or place.backend:
            raise Unimplemented("moving an interface from or to another domain's network")
        before = await self._xs.read(f"{place.note}/bridge") or ""
        if not script:
            await asyncio.to_thread(bridge.check, network.bridge)
        names = [Write(f"{folder}/bridge", network.bridge) for folder in (place.back, place.xl, place.note)]
        await self._xs.commit(names)  # a script reads it there
        try:
            if script:
                await self._hotplug.add(script, "move", place, **_environment(place, device))
            else:
                await self._apply(place, device)
        except BaseException:
            await self._xs.commit([Write(change.path, before) for change in names])
            raise

    async def set_carrier(self, vm: Vm, vif: Vif, carrier: bool) -> None:
        await self._set(vm, vif, "carrier", str(int(carrier)))

    async def set_locking_mode(self, vm: Vm, vif: Vif, mode: LockingMode) -> None:
        if isinstance(mode, Locked):
            raise Unimplemented("holding an interface to addresses (locking mode Locked)")
        await self._set(vm, vif, "locking", "disabled" if isinstance(mode, Disabled) else "unlocked")

    async def set_ipv4_configuration(self, vm: Vm, vif: Vif, configuration: Ipv4Configuration) -> None:
        place, *_ = await self._plugged(vm, vif)
        await self._addresses(place, await self._xs.read(f"{place.back}/mac") or "", configuration, None)

    async def set_ipv6_configuration(self, vm: Vm, vif: Vif, configuration: Ipv6Configuration) -> None:
        place, *_ = await self._plugged(vm, vif)
        await self._addresses(place, await self._xs.read(f"{place.back}/mac") or "", None, configuration)

    async def set_pvs_proxy(self, vm: Vm, vif: Vif, proxy: PvsProxy | None) -> None:
        if proxy is not None:
            raise Unimplemented("a boot-disk cache in front of an interface")

    async def set_trunks(self, vm: Vm, vif: Vif, trunks: list[int]) -> None:
        if trunks:
            raise Unimplemented("trunks of an interface on a Linux bridge")

    async def state(self, vm: Vm, vif: Vif) -> VifState:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vif.id.dev)
        if place is None:
            return VifState()
        carrier, locking, device, pid = await self._xs.read_many(
            [*(f"{place.note}/{key}" for key in ("carrier", "locking", "device")), f"{place.back}/kthread-pid"]
        )
        return VifState(
            plugged=True,
            media_present=carrier == "1" and locking != "disabled",
            device=device or UNSET,
            kthread_pid=int(pid) if pid and pid.isascii() and pid.isdigit() and len(pid) < 10 else 0,
        )

    async def get_action(self, vm: Vm, vif: Vif) -> DeviceAction | None:
        domid = self._world.domains.domid(vm.id)
        place = None if domid is None else await self._connections.find(domid, vif.id.dev)
        if place is None:
            return None
        state, online, status = await self._xs.read_many(
            [f"{place.back}/{key}" for key in ("state", "online", "hotplug-status")]
        )
        back = xenbus.parse(state)
        # Without a status it is half made: we were killed while it was plugged.
        gone = not status or online != "1" or xenbus.is_ending(back) or xenbus.has_ended(back)
        return DeviceAction.UNPLUG if gone else None

    async def connect_emulated(self, domid: int, devid: int, tap: str) -> None:
        """A device model has made a tap for the emulated twin of an interface: it goes where that one is. Raises `IoError`."""
        place = Place("vif", domid, devid)
        script = await self._xs.read(f"{place.note}/script")
        if script:
            await self._hotplug.add(script, "add", place, type_if="tap", **_environment(place, tap))
        else:
            await self._apply(place, tap)

    def _script(self, vif: Vif) -> str:
        """What is run instead of our own work, if anything; a driver domain runs its own."""
        script = vif.script or self._world.options.vif_script
        return hotplug.located(script) if script and isinstance(vif.backend, Bridge) else ""

    def _backend(self, network: Network) -> int:
        """Which domain serves that network. Raises `DoesNotExist` when the driver domain does not run."""
        if isinstance(network, Sriov):
            raise Unimplemented("virtual functions of network cards")
        return self._world.domains.require(network.vm) if isinstance(network, Remote) else 0

    async def _serve(self, vm: Vm, vif: Vif, place: Place, script: str) -> None:
        """Until the interface is where it belongs, and a running guest has had its chance to take it."""
        device = f"vif{place.domid}.{place.devid}"
        if place.backend:
            await self._hotplug.connected(place, f"driver domain {place.backend}", _DRIVER_DOMAIN_S)
        else:
            await self._connections.ready(place)
            await self._appeared(place, device)
        if script:
            await self._hotplug.add(script, "online", place, **_environment(place, device))
        elif not place.backend:
            name = _device(place, vif)
            if name != device:
                await asyncio.to_thread(bridge.rename, device, name)
            await self._apply(place, name)
            await self._xs.commit([Write(f"{place.back}/hotplug-status", "connected")])
        info = await self._world.domains.info(vm.id)
        if info is not None and not info.paused and not info.shutdown:
            await self._connections.meet(place, within_s=self._meet_s)

    async def _appeared(self, place: Place, device: str) -> None:
        """netback makes the interface a moment after it says that it waits, and tells only when it cannot: so we look."""
        try:
            async with asyncio.timeout(_APPEARED_S):
                while not bridge.exists(device):
                    await self._connections.accepted(
                        place, *await self._xs.read_many([f"{place.back}/state", f"{place.back_error}/error"])
                    )
                    await asyncio.sleep(_LOOK_AGAIN_S)
        except TimeoutError:
            raise IoError(device, "netback says that it waits for the guest, and made no such interface") from None

    async def _plugged(self, vm: Vm, vif: Vif) -> tuple[Place, str, str]:
        """Where it is, its name here, and its script. Raises `DoesNotExist`, `DeviceNotConnected`."""
        place = await self._connections.find(self._world.domains.require(vm.id), vif.id.dev)
        if place is None:
            raise DeviceNotConnected("vif", str(vif.id))
        device, script = await self._xs.read_many([f"{place.note}/device", f"{place.note}/script"])
        return place, device or "", script or ""

    async def _set(self, vm: Vm, vif: Vif, key: str, value: str) -> None:
        """Note it and make the link follow: down, and off its bridge, when the cable is out or no traffic may pass."""
        place, device, _ = await self._plugged(vm, vif)
        if place.backend:
            raise Unimplemented("the carrier of an interface in another domain")
        await self._xs.commit([Write(f"{place.note}/{key}", value)])
        carrier, locking = await self._xs.read_many([f"{place.note}/carrier", f"{place.note}/locking"])
        on = carrier == "1" and locking != "disabled"
        owner = (f"n{place.domid}", "r0")
        await self._xs.commit([Write(f"{place.front}/disconnect", "0" if on else "1", owner)])
        await asyncio.to_thread(bridge.set_link, device, up=on)
        if bridge.exists(f"{device}-emu"):
            await asyncio.to_thread(bridge.set_link, f"{device}-emu", up=on)

    async def _apply(self, place: Place, device: str) -> None:
        """An interface is a port of the bridge that is noted, with its link as noted."""
        carrier, locking, name, mtu = await self._xs.read_many(
            [f"{place.note}/{key}" for key in ("carrier", "locking", "bridge", "mtu")]
        )
        up = carrier == "1" and locking != "disabled"
        await asyncio.to_thread(bridge.join, device, name or "", mtu=int(mtu or 1500), up=up)
        if not device.endswith("-emu") and bridge.exists(f"{device}-emu"):
            await asyncio.to_thread(bridge.join, f"{device}-emu", name or "", mtu=int(mtu or 1500), up=up)

    async def _addresses(
        self, place: Place, mac: str, ipv4: Ipv4Configuration | None, ipv6: Ipv6Configuration | None
    ) -> None:
        """Nothing is written as long as nothing was ever wished for."""
        top = f"{layout.domain(place.domid)}/xenserver/device/vif/{place.devid}"
        unspecified = isinstance(ipv4, Unspecified4 | None) and isinstance(ipv6, Unspecified6 | None)
        if unspecified and await self._xs.read(f"{top}/static-ip-setting") is None:
            return
        changes: list[Change] = nic.settings(top, place.domid, mac, ipv4, ipv6)
        await self._xs.commit(changes)

    async def _ask_guest(self, vm: Vm, vif: Vif, place: Place) -> None:
        """Raises `DeviceDetachRejected`; nobody is asked who cannot have it in use."""
        info = await self._world.domains.info(vm.id)
        front, back = await self._connections.states(place)
        if info is None or info.shutdown or not xenbus.in_use(front) or xenbus.has_ended(back):
            return
        if info.paused:
            raise DeviceDetachRejected("VIF", str(vif.id), "it is paused and cannot answer")
        reason = await self._connections.close(place, within_s=self._let_go_s)
        if reason is not None:
            raise DeviceDetachRejected("VIF", str(vif.id), reason)

    async def _remove(self, places: list[Place]) -> None:
        await self._connections.force(places, between=self._release)
        gone: list[Change] = []
        for place in places:
            gone += nic.unset(f"{layout.domain(place.domid)}/xenserver/device/vif/{place.devid}")
        await self._xs.commit(gone)

    async def _release(self, place: Place) -> None:
        """What was done to the host for it is undone; the interface itself goes with its back end."""
        device, script = await self._xs.read_many([f"{place.note}/device", f"{place.note}/script"])
        if script and device:
            await self._hotplug.remove(script, "offline", place, **_environment(place, device))


def _device(place: Place, vif: Vif) -> str:
    """Its name in the back end's domain."""
    return vif.vifname or f"vif{place.domid}.{place.devid}"


def _environment(place: Place, device: str) -> dict[str, str]:
    return {"vif": device, "dev": device, "INTERFACE": device}
