# SPDX-License-Identifier: Apache-2.0
"""What the hypervisor and xenstore say of a machine.

What the hypervisor says is asked anew each time. What a guest wrote is read again only after its tree has changed;
it is untrusted, and only so much of it is taken.
"""

import re
from collections.abc import Sequence

from xenops.types.console import Console, ConsoleProtocol
from xenops.types.vm import HALTED, DomainType, Hvm, PowerState, Pv, PvInPvh, Vm, VmState
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.handles import handle_of
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

    async def _state(self, vm: Vm, info: DomainInfo | None) -> VmState:
        if info is None:
            return _SUSPENDED if self._shelf.suspended(vm.id) is not None else HALTED
        told = self._world.trees.told.get(info.domid)
        if told is None:
            epoch = self._world.trees.epoch(info.domid)
            told = await self._read(vm, info.domid)
            if epoch == self._world.trees.epoch(info.domid):  # else it changed while we read
                self._world.trees.told[info.domid] = told
        return _render(vm, info, told)

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
        keys = dict(zip(paths, await self._world.xs.read_many(list(paths.values())), strict=True))
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
            connected=await self._connected(domid),
            agent=await self._agent(top),
            xsdata=await self._subtree(f"{top}/vm-data", "vm-data/", 3, _Budget()),
        )

    async def _connected(self, domid: int) -> bool:
        """Whether any device's driver is at work in the guest."""
        top = f"{layout.domain(domid)}/device"
        paths = [
            f"{top}/{kind}/{device}/state"
            for kind in ("vbd", "vif")
            for device in await self._world.xs.ls(f"{top}/{kind}")
        ]
        return "4" in await self._world.xs.read_many(paths)

    async def _agent(self, top: str) -> dict[str, str]:
        budget = _Budget()
        found: dict[str, str] = {}
        for folder, depth in _AGENT.items():
            found |= await self._subtree(f"{top}/{folder}", f"{folder}/", depth, budget)
        return found

    async def _subtree(self, path: str, name: str, depth: int, budget: "_Budget") -> dict[str, str]:
        """The leaves below a folder that a guest may write, by their names from the top of its tree."""
        entries = (await self._world.xs.ls(path))[: budget.keys]
        values = await self._world.xs.read_many([f"{path}/{entry}" for entry in entries])
        found: dict[str, str] = {}
        for entry, untrusted in zip(entries, values, strict=True):
            if untrusted and not entry.startswith("platform-feature-") and budget.take(len(untrusted)):
                found[name + entry] = untrusted.encode("utf-8", "replace").decode()
        if depth:
            for entry, untrusted in zip(entries, values, strict=True):
                if not untrusted:
                    found |= await self._subtree(f"{path}/{entry}", f"{name}{entry}/", depth - 1, budget)
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


def _render(vm: Vm, info: DomainInfo, told: Told) -> VmState:
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
        rtc_timeoffset=told.timeoffset,
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
