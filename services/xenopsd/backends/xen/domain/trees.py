# SPDX-License-Identifier: Apache-2.0
"""The domains' trees, watched: what a guest or an operator writes there is noticed, and what was read of it forgotten.

One watch a domain. A guest that writes without end costs one look in a while, not one a write.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.xenstore.client import XenStore

_TOGETHER_S = 0.25  # changes that come this close together are told as one: a guest that boots makes many
# Below a domain's tree: what a state is made of. Devices are watched by their own rooms.
_TELLING = ("attr", "console", "control", "data", "drivers", "feature", "memory", "serial", "vm-data", "xenserver")


@dataclass(frozen=True)
class Told:
    """What a domain's trees say: its guest's part and ours."""

    target_kib: int
    created_ms: int
    vcpus: int
    shadow_multiplier: float
    timeoffset: str
    terminal: str
    screen: str
    uncooperative: bool
    connected: bool
    agent: dict[str, str]
    xsdata: dict[str, str]


class Trees:
    """What is known of the domains' trees."""

    def __init__(self, xs: XenStore, changed: Callable[[int], None]) -> None:
        self._xs, self._changed = xs, changed
        self.told: dict[int, Told] = {}
        self._epochs: Counter[int] = Counter()
        self._following: dict[int, asyncio.Task[None]] = {}
        self._to_tell: dict[int, asyncio.TimerHandle] = {}

    def epoch(self, domid: int) -> int:
        """Grows with each change of that domain's tree."""
        return self._epochs[domid]

    def touch(self, domid: int) -> None:
        """We have written to it ourselves: what was read is history."""
        self._epochs[domid] += 1
        self.told.pop(domid, None)

    def follow(self, domid: int) -> None:
        """Watch a domain's tree from now on."""
        if domid not in self._following:
            self._following[domid] = asyncio.create_task(self._follow(domid), name=f"tree of domain {domid}")

    async def leave(self, domid: int) -> None:
        """Watch it no more. Idempotent."""
        following = self._following.pop(domid, None)
        if following is not None:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        if (timer := self._to_tell.pop(domid, None)) is not None:
            timer.cancel()
        self.told.pop(domid, None)
        self._epochs.pop(domid, None)

    async def stop(self) -> None:
        """Watch nothing any more."""
        for domid in list(self._following):
            await self.leave(domid)

    async def _follow(self, domid: int) -> None:
        top = layout.domain(domid)
        async with self._xs.watch(top) as events:
            await anext(events)  # it fires once in the beginning
            async for path in events:
                if path == top or path.removeprefix(top + "/").partition("/")[0] in _TELLING:
                    self.touch(domid)
                    self._tell_soon(domid)

    def _tell_soon(self, domid: int) -> None:
        if domid not in self._to_tell:
            self._to_tell[domid] = asyncio.get_running_loop().call_later(_TOGETHER_S, self._tell, domid)

    def _tell(self, domid: int) -> None:
        del self._to_tell[domid]
        self._changed(domid)
