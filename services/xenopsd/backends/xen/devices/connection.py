# SPDX-License-Identifier: Apache-2.0
"""A device of a guest: its front end, its back end, xl's note of it and ours; made, waited for, closed and erased.

    front   /local/domain/<n>/device/<kind>/<devid>               the guest's; it may write anything there
    back    /local/domain/<b>/backend/<kind>/<n>/<devid>          read by the guest
    xl      /libxl/<n>/device/<kind>/<devid>                      lets xl's tools work on it
    note    /xenopsd/domain/<n>/device/<kind>/<devid>             what must be found again after a restart

All four are made in one transaction and removed in one; nothing that the guest wrote is ever followed as a path.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from xenops.errors import AlreadyExists, DoesNotExist, IoError, StepTimedOut
from xenopsd.backends.xen.devices import xenbus
from xenopsd.backends.xen.devices.xenbus import State
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, Write
from xenopsd.backends.xen.xenstore.client import XenStore
from xenopsd.backends.xen.xenstore.transaction import Transaction

log = logging.getLogger(__name__)

_READY_S = 30.0
_ENDED_S = 5.0  # a kernel that has no part in a device does not answer, however long one waits


@dataclass(frozen=True, order=True)
class Place:
    """Where a device is; `back_kind` differs from `kind` for a disk that a QEMU serves."""

    kind: str
    domid: int
    devid: int
    backend: int = 0
    back_kind: str = ""

    @property
    def front(self) -> str:
        """The guest's folder."""
        return f"{layout.domain(self.domid)}/device/{self.kind}/{self.devid}"

    @property
    def back(self) -> str:
        """The back end's folder."""
        return f"{layout.domain(self.backend)}/{self.relative}"

    @property
    def relative(self) -> str:
        """The back end's folder as its own domain calls it."""
        return f"backend/{self.back_kind or self.kind}/{self.domid}/{self.devid}"

    @property
    def xl(self) -> str:
        """Where xl's tools look."""
        return f"{layout.libxl(self.domid)}/device/{self.kind}/{self.devid}"

    @property
    def note(self) -> str:
        """Where we look."""
        return f"{layout.private(self.domid)}/device/{self.kind}/{self.devid}"

    @property
    def front_error(self) -> str:
        """Where the guest says why not."""
        return f"{layout.domain(self.domid)}/error/device/{self.kind}/{self.devid}"

    @property
    def back_error(self) -> str:
        """Where the back end's kernel says why not."""
        return f"{layout.domain(self.backend)}/error/{self.relative}"


@dataclass(frozen=True)
class Nodes:
    """What a device is made of: what xl writes into each folder, what hotplug work adds to the back end, our own note."""

    front: Mapping[str, str]
    back: Mapping[str, str]
    note: Mapping[str, str]
    hotplug: Mapping[str, str] = field(default_factory=dict)
    read_only: Mapping[str, str] = field(default_factory=dict)  # of the front end: the guest reads it, dom0 owns it


def made(place: Place, nodes: Nodes) -> list[Change]:
    """All of a device. What lies in a folder inherits the folder's permissions."""
    front_owner, back_owner = (f"n{place.domid}", f"r{place.backend}"), (f"n{place.backend}", f"r{place.domid}")
    front = {"backend": place.back, "backend-id": str(place.backend), **nodes.front}
    back = {"frontend": place.front, "frontend-id": str(place.domid), "online": "1", "state": "1", **nodes.back}
    note = {"backend-id": str(place.backend), "backend-kind": place.back_kind, **nodes.note}
    folders: list[tuple[str, tuple[str, ...], Mapping[str, str]]] = [
        (place.note, layout.OURS, {key: value for key, value in note.items() if value}),
        (place.xl, layout.OURS, {"frontend": place.front, "backend": place.back, **back}),
        # The front end last but one: a back end looks for it as soon as its own folder is there.
        (place.front, front_owner, {"state": "1", **front}),
        (place.back, back_owner, {**back, **nodes.hotplug}),
    ]
    changes: list[Change] = []
    for folder, owner, entries in folders:
        changes += [Mkdir(folder, owner), *(Write(f"{folder}/{key}", value) for key, value in entries.items())]
    changes += [
        Write(f"{place.front}/{key}", value, ("n0", f"r{place.domid}")) for key, value in nodes.read_only.items()
    ]
    return changes


def erased(place: Place) -> list[Change]:
    """Nothing of a device."""
    folders = (place.front, place.front_error, place.xl, place.back, place.back_error, place.note)
    return [Remove(path) for path in folders]


class Connections:
    """Devices of one kind, by way of xenstore alone."""

    def __init__(self, xs: XenStore, kind: str, back_kinds: Sequence[str] = ()) -> None:
        self._xs, self._kind = xs, kind
        self._back_kinds = (kind, *back_kinds)
        # Our own transactions share parents: one after the other they do not make each other fail.
        self._writing = asyncio.Lock()

    async def create(self, place: Place, nodes: Nodes, *, vm: str, called: str) -> None:
        """Write it. Raises `AlreadyExists` when the place is taken, `DoesNotExist` when the domain went meanwhile."""

        async def write(transaction: Transaction) -> None:
            folders = [layout.domain(place.domid), place.note, place.front, place.back, place.xl]
            domain, note, front, *others = await transaction.read_many(folders)
            if domain is None:
                raise DoesNotExist("domain", vm)
            if note is not None or front is not None:
                raise AlreadyExists(place.kind, called)
            stale = erased(place) if any(other is not None for other in others) else []
            await transaction.apply([*stale, *made(place, nodes)])

        async with self._writing:
            await self._xs.transact(write)

    async def find(self, domid: int, dev: str) -> Place | None:
        """The device of that name, from our notes."""
        return (await self.noted(domid)).get(dev)

    async def noted(self, domid: int) -> dict[str, Place]:
        """All devices that we noted, by name."""
        top = f"{layout.private(domid)}/device/{self._kind}"
        devids = [int(name) for name in await self._xs.ls(top) if _is_number(name)]
        if not devids:
            return {}
        keys = ("id", "backend-id", "backend-kind")
        found = await self._xs.read_many([f"{top}/{devid}/{key}" for devid in devids for key in keys])
        places: dict[str, Place] = {}
        for n, devid in enumerate(devids):
            dev, backend, back_kind = found[3 * n : 3 * n + 3]
            if dev is not None:
                places[dev] = Place(self._kind, domid, devid, int(backend or 0), back_kind or "")
        return places

    async def ready(self, place: Place, *, deadline_s: float = _READY_S) -> None:
        """Wait until the back end has taken its device. Raises `IoError` with what it said, `StepTimedOut`."""
        state, error = f"{place.back}/state", f"{place.back_error}/error"

        def settled(values: Mapping[str, str | None]) -> bool:
            back = xenbus.parse(values[state])
            return bool(values[error]) or xenbus.is_ready(back) or xenbus.is_ending(back) or values[state] is None

        values = await self._xs.wait_for([state, error], settled, deadline_s)
        await self.accepted(place, values[state], values[error])

    async def accepted(self, place: Place, state: str | None, error: str | None) -> None:
        """Raises `IoError` when the back end says that it cannot serve the device."""
        if error or xenbus.has_ended(xenbus.parse(state)) or xenbus.is_ending(xenbus.parse(state)):
            raise IoError(place.back, error or "the back end closed it at once; the kernel's log says why")

    async def states(self, place: Place) -> tuple[State, State]:
        """What front end and back end say now."""
        front, back = await self._xs.read_many([f"{place.front}/state", f"{place.back}/state"])
        return xenbus.parse(front), xenbus.parse(back)

    async def meet(self, place: Place, *, within_s: float) -> bool:
        """Whether the guest took the device in that time; false for one that has no driver for it."""
        front, back = f"{place.front}/state", f"{place.back}/state"

        def met(values: Mapping[str, str | None]) -> bool:
            return all(xenbus.parse(value) is State.CONNECTED for value in values.values()) or values[back] is None

        try:
            values = await self._xs.wait_for([front, back], met, within_s)
        except StepTimedOut:
            return False
        return values[back] is not None

    async def close(self, place: Place, *, within_s: float) -> str | None:
        """Ask the guest to let go; None when it has, else its reason, and then the device goes on as it was."""
        await self._end(place)
        front, back, error = f"{place.front}/state", f"{place.back}/state", f"{place.front_error}/error"

        def answered(values: Mapping[str, str | None]) -> bool:
            return xenbus.has_ended(xenbus.parse(values[back])) or bool(values[error])

        try:
            values = await self._xs.wait_for([back, front, error], answered, within_s)
        except StepTimedOut:
            untrusted_reason: str | None = f"it did not answer within {within_s:g} s"
        except asyncio.CancelledError:
            await self._go_on(place)
            raise
        else:
            if xenbus.has_ended(xenbus.parse(values[back])):
                return None
            untrusted_reason = values[error]
        await self._go_on(place)
        return (untrusted_reason or "it gave no reason").encode("utf-8", "replace").decode()[:200]

    async def force(
        self, places: Sequence[Place], *, between: Callable[[Place], Awaitable[None]] | None = None
    ) -> None:
        """Take them away without asking, in any state, the domain there or not. Idempotent.

        `between` is done for each when its back end has ended and its nodes can still be read.
        """
        if not places:
            return
        # We speak for the guest. To remove its folder would not do: when a domain dies xenstored removes what it owned
        # without telling anybody, and then the back end would never look.
        domains = [layout.domain(place.domid) for place in places]

        async def cut(transaction: Transaction) -> tuple[list[str], list[Change]]:
            there = await transaction.read_many(domains)
            waiting = await _ending(transaction, places)
            asked = [place for place in places if f"{place.back}/state" in waiting]
            await transaction.apply([Write(f"{place.front}/state", str(int(State.CLOSED))) for place in asked])
            # Where there was nothing of the domain any more, what we say for it is all that there is.
            return waiting, [Remove(path) for path, value in zip(domains, there, strict=True) if value is None]

        async with self._writing:
            waiting, traces = await self._xs.transact(cut)
        try:
            await self._xs.wait_for(waiting, _all_ended, _ENDED_S) if waiting else None
        except StepTimedOut:
            log.warning("no answer from the back ends of %s: their folders are removed", ", ".join(waiting))
        if between is not None:
            for place in places:
                await between(place)
        async with self._writing:  # a back end's kernel lets go at last when its folder vanishes
            await self._xs.commit([*(change for place in places for change in erased(place)), *traces])
            if any(place.backend for place in places):
                await self._xs.transact(lambda transaction: _prune(transaction, places))

    async def unnoted(self, domid: int) -> list[Place]:
        """Devices that others attached to a domain of ours, with xl for example."""
        known = {(place.back_kind or place.kind, place.devid) for place in (await self.noted(domid)).values()}
        places: list[Place] = []
        for back_kind in self._back_kinds:
            for name in await self._xs.ls(f"{layout.domain(0)}/backend/{back_kind}/{domid}"):
                if _is_number(name) and (back_kind, int(name)) not in known:
                    other = "" if back_kind == self._kind else back_kind
                    places.append(Place(self._kind, domid, int(name), 0, other))
        return places

    async def clean(self, domid: int) -> None:
        """The folders in which a domain's devices of this kind were."""
        tops = [
            f"{layout.domain(0)}{error}/backend/{kind}/{domid}" for kind in self._back_kinds for error in ("", "/error")
        ]
        await self._xs.commit([Remove(path) for path in (*tops, f"{layout.private(domid)}/device/{self._kind}")])

    async def _end(self, place: Place) -> None:
        async def end(transaction: Transaction) -> None:
            await _ending(transaction, [place])
            await transaction.apply([Remove(place.front_error)])  # an answer to an earlier question is none to this

        async with self._writing:
            await self._xs.transact(end)

    async def _go_on(self, place: Place) -> None:
        """The guest keeps it: both ends as before the question."""

        async def restore(transaction: Transaction) -> None:
            front, back = await transaction.read_many([f"{place.front}/state", f"{place.back}/state"])
            if back is None:
                return
            await transaction.write(f"{place.back}/online", "1")
            if xenbus.parse(front) is State.CONNECTED and xenbus.parse(back) is State.CLOSING:
                await transaction.write(f"{place.back}/state", str(int(State.CONNECTED)))

        await self._xs.transact(restore)


async def _prune(transaction: Transaction, places: Sequence[Place]) -> None:
    """What a driver domain had for a guest's devices, once there is none: in the control domain `clean` does it."""
    remote = [path for place in places if place.backend for path in (place.back, place.back_error)]
    for folder in {path.rpartition("/")[0] for path in remote}:
        if not await transaction.ls(folder):
            await transaction.rm(folder)


async def _ending(transaction: Transaction, places: Sequence[Place]) -> list[str]:
    """Say that they end, where there is a back end; whose `state` is to be waited for."""
    states = await transaction.read_many([f"{place.back}/state" for place in places])
    qemus = await transaction.read_many([f"/local/domain/0/device-model/{place.domid}/state" for place in places])
    waiting: list[str] = []
    for place, state, qemu in zip(places, states, qemus, strict=True):
        if state is None:
            continue
        await transaction.apply([Write(f"{place.back}/online", "0")])
        if xenbus.parse(state) is not State.CLOSED:
            await transaction.apply([Write(f"{place.back}/state", str(int(State.CLOSING)))])
            if not place.back_kind or qemu is not None:  # one that is gone before its devices never answers
                waiting.append(f"{place.back}/state")
    return waiting


def _all_ended(values: Mapping[str, str | None]) -> bool:
    return all(xenbus.has_ended(xenbus.parse(value)) for value in values.values())


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and len(name) < 10
