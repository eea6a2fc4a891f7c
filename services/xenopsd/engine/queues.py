# SPDX-License-Identifier: Apache-2.0
"""Whose turn it is: items with one tag run one after another, and tags take turns.

Pure: a value without synchronisation of its own; `workers` awaits around it.
"""

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Queues(Generic[T]):
    """A queue a tag; a long queue starves no neighbour."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()  # tags that may be served, the next one first
        self._busy: dict[str, deque[T]] = {}  # tags whose item is out, with what waits behind it

    def push(self, tag: str, item: T) -> None:
        """Put an item at the end of its tag's queue."""
        if tag in self._busy:
            self._busy[tag].append(item)
        else:
            self._waiting.setdefault(tag, deque()).append(item)

    def pop(self) -> tuple[str, T] | None:
        """The next item, or None; its tag is busy until `finish`."""
        if not self._waiting:
            return None
        tag, queue = self._waiting.popitem(last=False)
        item = queue.popleft()
        self._busy[tag] = queue
        return tag, item

    def finish(self, tag: str) -> None:
        """The item that was out is done; what waits behind it lines up at the end."""
        queue = self._busy.pop(tag)
        if queue:
            self._waiting[tag] = queue

    def remove(self, unwanted: Callable[[T], bool]) -> list[T]:
        """Take waiting items out; returns them."""
        removed: list[T] = []
        for tags in (self._waiting, self._busy):
            for tag, queue in list(tags.items()):
                removed += (gone := [item for item in queue if unwanted(item)])
                if gone:
                    tags[tag] = deque(item for item in queue if not unwanted(item))
        for tag in [tag for tag, queue in self._waiting.items() if not queue]:
            del self._waiting[tag]
        return removed

    def waiting(self, tag: str) -> tuple[T, ...]:
        """What waits under a tag, without the item that is out."""
        return tuple(self._busy.get(tag) or self._waiting.get(tag) or ())

    def is_busy(self, tag: str) -> bool:
        """Whether an item of the tag is out."""
        return tag in self._busy

    def is_idle(self, tag: str) -> bool:
        """Whether the tag has neither an item out nor one waiting."""
        return tag not in self._busy and tag not in self._waiting

    def snapshot(self) -> dict[str, list[T]]:
        """All waiting items by tag."""
        return {tag: list(queue) for tags in (self._busy, self._waiting) for tag, queue in tags.items() if queue}

    def __len__(self) -> int:
        return sum(len(queue) for tags in (self._waiting, self._busy) for queue in tags.values())
