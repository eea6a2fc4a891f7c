# SPDX-License-Identifier: Apache-2.0
"""How messages wait in a queue: in one line, or by priority in one line behind the other."""

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Iterator
from typing import Protocol

from message_switch import properties
from message_switch.model.message import Entry


class Waiting(Protocol):
    """Messages in the order in which they are to leave."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Entry]: ...

    def __getitem__(self, index: int, /) -> Entry: ...

    def append(self, entry: Entry, /) -> None:
        """A new one."""

    def popleft(self) -> Entry:
        """The next one leaves."""

    def put_back(self, entry: Entry) -> None:
        """One that has left comes back to where it stood."""

    def clear(self) -> None:
        """All of them leave."""

    def oldest_at(self) -> float:
        """When the one came that has waited for longest."""


class Line(deque[Entry]):
    """First come, first served."""

    def put_back(self, entry: Entry) -> None:
        """See `Waiting`."""
        if not self or entry.position < self[0].position:
            self.appendleft(entry)
        else:
            self.insert(bisect_left(self, entry.position, key=lambda e: e.position), entry)

    def oldest_at(self) -> float:
        """See `Waiting`."""
        return self[0].at


class Ranks:
    """Higher priorities first; a priority above `most` counts as that, and none as 0."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[int, Line] = {}
        self._ranks: list[int] = []  # of the lines that are not empty, the highest last

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __bool__(self) -> bool:
        return bool(self._ranks)

    def __iter__(self) -> Iterator[Entry]:
        for rank in reversed(self._ranks):
            yield from self._lines[rank]

    def __getitem__(self, index: int, /) -> Entry:
        if index or not self._ranks:
            raise IndexError(index)
        return self._lines[self._ranks[-1]][0]

    def append(self, entry: Entry, /) -> None:
        """See `Waiting`."""
        self._line(entry).append(entry)

    def popleft(self) -> Entry:
        """See `Waiting`."""
        line = self._lines[self._ranks[-1]]
        entry = line.popleft()
        if not line:
            del self._lines[self._ranks.pop()]
        return entry

    def put_back(self, entry: Entry) -> None:
        """See `Waiting`."""
        self._line(entry).put_back(entry)

    def clear(self) -> None:
        """See `Waiting`."""
        self._lines.clear()
        self._ranks.clear()

    def oldest_at(self) -> float:
        """See `Waiting`."""
        return min(line.oldest_at() for line in self._lines.values())

    def _line(self, entry: Entry) -> Line:
        rank = min(properties.priority(entry.message.header), self._most)
        if rank not in self._lines:
            self._lines[rank] = Line()
            insort(self._ranks, rank)
        return self._lines[rank]
