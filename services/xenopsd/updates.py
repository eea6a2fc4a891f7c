# SPDX-License-Identifier: Apache-2.0
"""The stream of changes: which object changed after which point, and barriers within it.

Pure: a value; who waits for changes is `api/updates.py`'s business. Many changes of one object are one entry at the
place of the newest, so a slow reader sees fewer entries, never wrong ones. What was removed is remembered for a while;
a token from before that, or from another life of the daemon, is answered with everything and `resync`.
"""

from collections import OrderedDict
from typing import NamedTuple

from xenops.events import Change, Kind
from xenops.types.update import Barrier, Update
from xenops.types.update import Updates as Answer

Key = tuple[Kind, str]
_REMOVED_KEPT = 10_000
_BARRIERS_KEPT = 1_000  # who never removes his loses the oldest: a reader from before it is told to resync
_OF_A_VM = (Kind.VM, Kind.VBD, Kind.VIF, Kind.PCI, Kind.VUSB, Kind.VGPU)


class _Entry(NamedTuple):
    seq: int
    change: Change
    added: int  # when it came to be, in this life of the daemon

    def seen_from(self, since: int) -> Change:
        """A reader who knows the object only from before `since` must see it added, and others changed."""
        return Change.ADDED if self.change is Change.CHANGED and self.added > since else self.change


class _Barrier(NamedTuple):
    seq: int
    snapshot: list[tuple[int, Update]]


class Updates:
    """All changes so far, newest place of each object."""

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.seq = 0
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()  # oldest change first
        self._removed: OrderedDict[Key, None] = OrderedDict()
        self._barriers: OrderedDict[int, _Barrier] = OrderedDict()
        self._forgotten_to = 0  # removals up to here are no longer known

    def add(self, kind: Kind, id: str, change: Change = Change.CHANGED) -> int:
        """An object changed; its place in the stream."""
        self.seq += 1
        key = (kind, id)
        known = self._entries.get(key)
        added = self.seq if known is None or change is Change.ADDED else known.added
        self._entries[key] = _Entry(self.seq, change, added)
        self._entries.move_to_end(key)
        if change is Change.REMOVED:
            self._removed[key] = None
            self._removed.move_to_end(key)
            while len(self._removed) > _REMOVED_KEPT:
                oldest, _ = self._removed.popitem(last=False)
                self._forgotten_to = max(self._forgotten_to, self._entries.pop(oldest).seq)
        else:
            self._removed.pop(key, None)
        return self.seq

    def token(self, seq: int | None = None) -> str:
        """The token of a place in the stream; by default of this moment."""
        return f"{self.epoch}:{self.seq if seq is None else seq}"

    def get(self, untrusted_token: str | None) -> Answer:
        """All that changed after a token, oldest first; without a token, all there is."""
        since, resync = self._place(untrusted_token)
        found = [Update(kind=key[0], id=key[1], change=entry.seen_from(since)) for key, entry in self._after(since)]
        barriers = [
            Barrier(id=id, updates=[update for seq, update in barrier.snapshot if seq > since])
            for id, barrier in self._barriers.items()
            if barrier.seq > since
        ]
        return Answer(barriers=barriers, updates=found, token=self.token(), resync=resync)

    def has_news(self, untrusted_token: str | None) -> bool:
        """Whether `get` would answer with anything."""
        since, resync = self._place(untrusted_token)
        return resync or self.seq > since

    def inject_barrier(self, vm: str, id: int) -> None:
        """Mark this place: the changes of that VM's objects so far belong before it."""
        self.seq += 1
        ours = (
            (entry.seq, Update(kind=kind, id=key, change=entry.change))
            for (kind, key), entry in self._entries.items()
            if kind in _OF_A_VM and (key == vm or key.startswith(f"{vm}."))
        )
        self._barriers.pop(id, None)
        self._barriers[id] = _Barrier(self.seq, sorted(ours, key=lambda entry: entry[0]))
        while len(self._barriers) > _BARRIERS_KEPT:
            _, oldest = self._barriers.popitem(last=False)
            self._forgotten_to = max(self._forgotten_to, oldest.seq)

    def remove_barrier(self, id: int) -> None:
        """Take a mark away. Idempotent."""
        self._barriers.pop(id, None)

    def describe(self) -> dict[str, object]:
        """For diagnostics."""
        entries = [
            {"id": entry.seq, "kind": kind.value, "of": id, "change": entry.change.value}
            for (kind, id), entry in self._entries.items()
        ]
        barriers = [[id, barrier.seq, len(barrier.snapshot)] for id, barrier in self._barriers.items()]
        return {"epoch": self.epoch, "seq": self.seq, "updates": entries, "barriers": barriers}

    def _after(self, since: int) -> list[tuple[Key, _Entry]]:
        found: list[tuple[Key, _Entry]] = []
        for key in reversed(self._entries):
            entry = self._entries[key]
            if entry.seq <= since:
                break
            found.append((key, entry))
        found.reverse()
        return found

    def _place(self, untrusted_token: str | None) -> tuple[int, bool]:
        """The place a token stands for, and whether too much has been forgotten since."""
        if untrusted_token is None or untrusted_token == "":
            return 0, False
        epoch, _, number = untrusted_token.rpartition(":")
        if (
            epoch != self.epoch
            or not (number.isascii() and number.isdigit() and len(number) < 20)
            or int(number) > self.seq
        ):
            return 0, True
        return (int(number), False) if int(number) >= self._forgotten_to else (0, True)
