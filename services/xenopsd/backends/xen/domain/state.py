# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor and xenstore say of a machine.

What the hypervisor says is asked anew each time. What a guest wrote is read again only after its tree has changed;
it is untrusted, and only so much of it is taken.
"""

import re
from collections.abc import Sequence

from xenops.errors import DoesNotExist, HypercallFailed
from xenops.types.console import Console, ConsoleProtocol
from xenops.types.vm import HALTED, DomainType, Hvm, PowerState, Pv, PvInPvh, Vm, VmState
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.layout import handle_of
from xenopsd.backends.xen.domain.shelf import Shelf
from xenopsd.backends.xen.domain.trees import Told
from xenopsd.backends.xen.domctl import DomainInfo, Shutdown
from xenopsd.backends.xen.world import World

_SUSPENDED = VmState(power_state=PowerState.SUSPENDED)
_ALL_AT_ONCE = 8  # from so many machines on, one question for all domains is cheaper than one for each
_OFFSET = re.compile(r"-?[0-9]{1,12}")
_TRUE = ("1", "true", "yes", "on")
# How deep a guest's subtrees are read, and how much of them in all.
_AGENT = {
    "control": 0,
    "feature/hotplug": 0,
    "xenserver/attr": 3,
    "attr": 3,
    "drivers": 0,
    "data": 0,
    "data/service": 1,
}
_OWN, _OWN_DEPTH = "vm-data", 3
_DEVICES = ("device/vbd", "device/vif")
_Folder = tuple[str, list[str], int]  # below the domain's tree, the names in it, how much deeper to look
_AGENT_KEYS, _AGENT_BYTES = 512, 64 << 10


class States:
    """The states of machines; what was read from xenstore is kept until it changes."""

    def __init__(self, world: World, shelf: Shelf) -> None:
        self._world, self._shelf = world, shelf

    async def of(self, vms: Sequence[Vm]) -> list[VmState]:
        """One state a machine, in order."""
        if len(vms) < _ALL_AT_ONCE:
            infos = [await self._world.domains.info(vm.id) for vm in vms]
        else:
            infos = await self._world.domains.infos([vm.id for vm in vms])
        return [await self._state(vm, info) for vm, info in zip(vms, infos, strict=True)]

    async def power_state(self, vm: Vm) -> PowerState:
        """The same, and no more than that: of xenstore nothing is read."""
        info = await self._world.domains.info(vm.id)
        return self._without_domain(vm).power_state if info is None else power_state(info)

    def _without_domain(self, vm: Vm) -> VmState:
        return _SUSPENDED if self._shelf.suspended(vm.id) is not None else HALTED

    async def _state(self, vm: Vm, info: DomainInfo | None) -> VmState:
        if info is None:
            return self._without_domain(vm)
        told = self._world.trees.told.get(info.domid)
        if told is None:
            epoch = self._world.trees.epoch(info.domid)
            told = await self._read(vm, info.domid)
            if epoch == self._world.trees.epoch(info.domid):  # else it changed while we read
                self._world.trees.told[info.domid] = told
        return _render(vm, info, told, await self._timeoffset(vm, info.domid, told))

    async def _timeoffset(self, vm: Vm, domid: int, told: Told) -> str:
        """An HVM guest sets its clock by itself, and the hypervisor alone knows to what."""
        if not isinstance(vm.ty, Hvm) or not told.timeoffset:
            return told.timeoffset
        try:
            return str(await self._world.xc.get_clock(domid))
        except (DoesNotExist, HypercallFailed):
            return told.timeoffset

    async def _read(self, vm: Vm, domid: int) -> Told:
        top, private = layout.domain(domid), layout.private(domid)
        paths = {
            "built": f"{private}/built",
            "target": f"{private}/target",
            "created": f"{private}/created",
            "console-kind": f"{private}/console-kind",
            "vcpus": f"{private}/vcpus",
            "shadow": f"{private}/shadow-multiplier",
            "tty": f"{top}/console/tty",
            "serial": f"{top}/serial/0/tty",
            "uncooperative": f"{top}/memory/uncooperative",
            "timeoffset": f"{layout.vm_tree(handle_of(vm.id))}/rtc/timeoffset",
        }
        folders = [f"{top}/{folder}" for folder in (*_DEVICES, *_AGENT, _OWN)]
        values, names = await self._world.xs.look(list(paths.values()), folders)
        keys = dict(zip(paths, values, strict=True))
        listed = dict(zip((*_DEVICES, *_AGENT, _OWN), names, strict=True))
        terminal = keys["serial" if keys["console-kind"] == "ioemu" else "tty"]
        screen = self._world.device_models.screen(domid) if isinstance(vm.ty, Hvm) else None
        return Told(
            target_kib=_number(keys["target"]),
            created_ms=_number(keys["created"]),
            vcpus=_number(keys["vcpus"]) or vm.vcpus,
            shadow_multiplier=float(keys["shadow"] or 1.0),
            timeoffset=_offset(keys["timeoffset"]),
            terminal=terminal if terminal and keys["built"] else "",
            screen=str(screen or ""),
            uncooperative=keys["uncooperative"] is not None,
            connected=await self._connected(top, listed),
            agent=await self._leaves(top, [(folder, listed[folder], depth) for folder, depth in _AGENT.items()]),
            xsdata=await self._leaves(top, [(_OWN, listed[_OWN], _OWN_DEPTH)]),
        )

    async def _connected(self, top: str, listed: dict[str, list[str]]) -> bool:
        """Whether any device's driver is at work in the guest."""
        fronts = [f"{top}/{kind}/{device}/state" for kind in _DEVICES for device in listed[kind]]
        return bool(fronts) and "4" in await self._world.xs.read_many(fronts)

    async def _leaves(self, top: str, listed: list[_Folder]) -> dict[str, str]:
        """The leaves below folders that a guest may write, by their names from the top of its tree."""
        budget = _Budget()
        found: dict[str, str] = {}
        while places := [(f"{at}/{name}", depth) for at, names, depth in listed for name in names][: budget.keys]:
            values = await self._world.xs.read_many([f"{top}/{place}" for place, _ in places])
            deeper: list[tuple[str, int]] = []
            for (place, depth), untrusted in zip(places, values, strict=True):
                if not untrusted and depth:
                    deeper.append((place, depth - 1))
                elif untrusted and "/platform-feature-" not in place and budget.take(len(untrusted)):
                    found[place] = untrusted.encode("utf-8", "replace").decode()
            _, names = await self._world.xs.look((), [f"{top}/{place}" for place, _ in deeper])
            listed = [(place, each, depth) for (place, depth), each in zip(deeper, names, strict=True)]
        return found


class _Budget:
    """How much of what a guest wrote is taken."""

    def __init__(self) -> None:
        self.keys, self._bytes = _AGENT_KEYS, _AGENT_BYTES

    def take(self, size: int) -> bool:
        """Whether this much more is still taken."""
        if self.keys <= 0 or size > self._bytes:
            return False
        self.keys, self._bytes = self.keys - 1, self._bytes - size
        return True


def _render(vm: Vm, info: DomainInfo, told: Told, timeoffset: str) -> VmState:
    consoles = [Console(protocol=ConsoleProtocol.VT100, path=told.terminal)] if told.terminal else []
    if told.screen:
        consoles.append(Console(protocol=ConsoleProtocol.RFB, path=told.screen))
    return VmState(
        power_state=power_state(info),
        domids=[info.domid],
        consoles=consoles,
        memory_target=told.target_kib << 10,
        memory_actual=info.memory_kib << 10,
        memory_limit=info.max_memory_kib << 10,
        vcpu_target=told.vcpus,
        shadow_multiplier_target=told.shadow_multiplier,
        rtc_timeoffset=timeoffset,
        uncooperative_balloon_driver=told.uncooperative,
        guest_agent=told.agent,
        xsdata_state=told.xsdata,
        pv_drivers_detected=told.connected,
        last_start_time=told.created_ms,
        hvm=isinstance(vm.ty, Hvm),
        domain_type=_kind(vm),
        nomigrate=_truth(vm, "nomigrate"),
        nested_virt=_truth(vm, "nested-virt"),
        featureset=vm.platformdata.get("featureset", ""),
    )


def power_state(info: DomainInfo) -> PowerState:
    """One that shut down by itself counts as running until somebody has seen to it."""
    if info.shutdown and info.shutdown_reason == Shutdown.SUSPEND:
        return PowerState.SUSPENDED
    return PowerState.PAUSED if info.paused else PowerState.RUNNING


def _kind(vm: Vm) -> DomainType:
    match vm.ty:
        case Hvm():
            return DomainType.HVM
        case Pv():
            return DomainType.PV
        case PvInPvh():
            return DomainType.PV_IN_PVH
        case _:
            return DomainType.PVH


def _truth(vm: Vm, key: str) -> bool:
    return vm.platformdata.get(key, "").lower() in _TRUE


def _offset(untrusted: str | None) -> str:
    """Seconds that a guest or its device model set its clock away from the host's."""
    return untrusted if untrusted is not None and _OFFSET.fullmatch(untrusted) else ""


def _number(text: str | None) -> int:
    """A number that we or the guest wrote; whatever is none counts as 0."""
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 19 else 0
