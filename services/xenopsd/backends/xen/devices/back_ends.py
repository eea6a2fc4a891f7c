# SPDX-License-Identifier: Apache-2.0
"""What becomes of devices by themselves, and who uses which disk: learnt from one watch on all back ends of this domain.

One watch on /local/domain/0/backend serves every device of every domain: two thousand idle domains cost nothing at all,
one that starts costs the few events that its back ends write. What changed is told once per `_TOGETHER_S`, and only when
it is something that a state is made of. Back ends in driver domains are not watched.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from xenops.errors import Fault, IoError
from xenops.events import Kind
from xenopsd.backends.port import Changed, twin_id
from xenopsd.backends.xen.devices import medium, xenbus
from xenopsd.backends.xen.devices.medium import Identity
from xenopsd.backends.xen.devices.xenbus import State
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domctl import DomainInfo, Shutdown
from xenopsd.backends.xen.xenstore.client import XenStore

log = logging.getLogger(__name__)

TOP = "/local/domain/0/backend"
_KINDS = {"vbd": ("vbd", Kind.VBD), "qdisk": ("vbd", Kind.VBD), "vif": ("vif", Kind.VIF), "pci": ("pci", Kind.PCI)}
_DISKS = ("vbd", "qdisk")
_TELLING = ("state", "online", "params", "kthread-pid", "")
_TOGETHER_S = 0.2  # a plug of ours is over by then: it is looked at once, and does not slow itself down
_THEIRS_S = 20.0  # how long another toolstack may take to take a domain away
_OF_A_DISK = ("physical-device", "params", "mode")
_AT_ONCE = 64

Key = tuple[str, int, int]  # kind of the back end, domain, device


@dataclass(frozen=True)
class Use:
    """A domain's disk."""

    identity: Identity
    writes: bool


class BackEnds:
    """All back ends of the control domain."""

    def __init__(
        self,
        xs: XenStore,
        machine: Callable[[int], str | None],
        info: Callable[[str], Awaitable[DomainInfo | None]],
        changed: Changed,
    ) -> None:
        self._xs, self._machine, self._info, self._changed = xs, machine, info, changed
        self._later: set[asyncio.TimerHandle] = set()
        self._uses: dict[Key, Use] = {}
        self._by_identity: dict[Identity, set[Key]] = {}
        self._surveyed = False
        self._claiming = asyncio.Lock()
        self._signatures: dict[Key, tuple[str, ...]] = {}
        self._to_learn: set[Key] = set()
        self._to_tell: set[Key] = set()
        self._wake = asyncio.Event()

    async def follow(self) -> None:
        """Learn and tell, until cancelled."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._tell())
                async with self._xs.watch(TOP) as events:
                    await anext(events)  # it fires once in the beginning
                    async for path in events:
                        self._hear(path)
        finally:
            for timer in self._later:
                timer.cancel()

    async def claim(self, key: Key, identity: Identity, *, path: str, writes: bool) -> None:
        """A domain is about to use that disk. Raises `IoError` when another one does, in a way that forbids it."""
        async with self._claiming:
            if not self._surveyed:
                await self._survey()
            await self._catch_up()
            for other in list(self._by_identity.get(identity, ())):
                if other[1] == key[1] or not (writes or self._uses[other].writes):
                    continue
                await self._learn(other)  # it may have gone, and nobody may have told
                if other in self._by_identity.get(identity, ()) and not await self._moves_to(key, other):
                    raise IoError(path, _taken_by(other, self._machine(other[1]), writes=self._uses[other].writes))
            self._note(key, Use(identity, writes))

    async def _moves_to(self, key: Key, other: Key) -> bool:
        """Whether the one is the domain that the other's suspended guest goes to: only one of them ever runs again."""
        source, twin = self._machine(other[1]), self._machine(key[1])
        if source is None or twin != twin_id(source):
            return False
        info = await self._info(source)
        return info is not None and info.shutdown and info.shutdown_reason == Shutdown.SUSPEND

    def release(self, key: Key) -> None:
        """It uses it no more. Idempotent."""
        use = self._uses.pop(key, None)
        if use is not None:
            keys = self._by_identity[use.identity]
            keys.discard(key)
            if not keys:
                del self._by_identity[use.identity]

    def _note(self, key: Key, use: Use) -> None:
        self.release(key)
        self._uses[key] = use
        self._by_identity.setdefault(use.identity, set()).add(key)

    async def _survey(self) -> None:
        """Once: from here on there is news only."""
        keys: list[Key] = []
        for kind in _DISKS:
            for domid in await self._xs.ls(f"{TOP}/{kind}"):
                devids = await self._xs.ls(f"{TOP}/{kind}/{domid}")
                found = (_key(f"{TOP}/{kind}/{domid}/{devid}") for devid in devids)
                keys += [key for key in found if key is not None and key not in self._uses]
        for start in range(0, len(keys), _AT_ONCE):
            await self._learn(*keys[start : start + _AT_ONCE])
        self._surveyed = True

    async def _catch_up(self) -> None:
        """Learn what was heard of and not looked at yet."""
        keys, self._to_learn = list(self._to_learn), set()
        if keys:
            await self._learn(*keys)

    async def _learn(self, *keys: Key) -> None:
        backs = [f"{TOP}/{kind}/{domid}/{devid}" for kind, domid, devid in keys]
        values = await self._xs.read_many([f"{back}/{name}" for back in backs for name in _OF_A_DISK])
        for n, key in enumerate(keys):
            device, params, mode = values[3 * n : 3 * n + 3]
            identity: Identity | None = None
            if device:
                identity = await asyncio.to_thread(medium.identity_of, device)
            elif params and key[0] == "qdisk":
                identity = await asyncio.to_thread(medium.identity_of_file, params.partition(":")[2])
            if identity is None:
                self.release(key)
            else:
                self._note(key, Use(identity, writes=(mode or "").startswith("w")))

    def _hear(self, path: str) -> None:
        key, node = _key(path), path.removeprefix(TOP + "/").split("/")
        if key is None:
            if len(node) <= 2 or path == TOP:  # a domain's devices went, or more happened than was counted
                self._to_tell |= {known for known in self._signatures if _folder(known).startswith(path)}
                self._to_learn |= {known for known in self._uses if _folder(known).startswith(path)}
                self._wake.set()
            return
        leaf = node[-1] if len(node) > 3 else ""
        if key[0] in _DISKS and leaf in ("physical-device", "params", ""):
            self._to_learn.add(key)
            self._wake.set()
        if leaf in _TELLING and key[0] in _KINDS:
            self._to_tell.add(key)
            self._wake.set()

    async def _tell(self) -> None:
        while True:
            await self._wake.wait()
            await asyncio.sleep(_TOGETHER_S)
            self._wake.clear()
            keys, self._to_tell = self._to_tell, set()
            try:
                await self._catch_up()
            except Fault as fault:
                log.warning("who uses which disk was not looked at: %s", fault)
            for key in keys:
                try:
                    await self._tell_of(key)
                except Fault as fault:
                    log.warning("a change of %s was not looked at: %s", key, fault)

    async def _tell_of(self, key: Key) -> None:
        back_kind, domid, devid = key
        kind, noun = _KINDS[back_kind]
        vm, back = self._machine(domid), f"{TOP}/{back_kind}/{domid}/{devid}"
        if vm is None:
            self._signatures.pop(key, None)
            return
        dev, state, *rest = await self._xs.read_many(
            [
                f"{layout.private(domid)}/device/{kind}/{devid}/id",
                *(f"{back}/{name}" for name in ("state", "online", "params", "kthread-pid")),
            ]
        )
        if dev is None:  # not one that we plugged, or we have taken it away
            self._signatures.pop(key, None)
            return
        now = (_phase(state), *(value or "" for value in rest))
        before = self._signatures.get(key)
        self._signatures[key] = now
        if before == now or (before is None and now[:2] == ("waiting", "1")):
            return
        info = await self._info(vm) if now[0] == "ending" else None
        if info is not None and info.paused:
            self._tell_later(noun, f"{vm}.{dev}")
        else:
            self._changed(noun, f"{vm}.{dev}")

    def _tell_later(self, noun: Kind, id: str) -> None:
        """A guest that is paused lets go of nothing: `xl destroy` takes it away, and would stumble over what we do to it."""

        def tell() -> None:
            self._later.discard(timer)
            self._changed(noun, id)

        timer = asyncio.get_running_loop().call_later(_THEIRS_S, tell)
        self._later.add(timer)


def _folder(key: Key) -> str:
    return f"{TOP}/{key[0]}/{key[1]}/{key[2]}"


def _phase(state: str | None) -> str:
    back = xenbus.parse(state)
    if back is State.CONNECTED:
        return "connected"
    return "ending" if xenbus.is_ending(back) or xenbus.has_ended(back) else "waiting"


def _key(path: str) -> Key | None:
    """The device that a path below TOP belongs to."""
    parts = path.removeprefix(TOP + "/").split("/")
    if len(parts) < 3 or not path.startswith(TOP + "/"):
        return None
    kind, domid, devid = parts[:3]
    if not (domid.isascii() and domid.isdigit() and devid.isascii() and devid.isdigit() and len(domid + devid) < 20):
        return None
    return kind, int(domid), int(devid)


def _taken_by(key: Key, machine: str | None, *, writes: bool) -> str:
    who = f"machine {machine}" if machine else f"domain {key[1]}, which is not ours"
    use = "writes to it" if writes else "reads it"
    return (
        f"{who} {use} (device {key[2]}); unplug it there first, or register both drives with mode {medium.SHARED_MODE!r}"
        " in extra_backend_keys if the guests know how to share it"
    )
