# SPDX-License-Identifier: Apache-2.0
"""Exchanges: from a routing key to the queues that want it."""

from collections.abc import Collection

from message_switch.model.queue import Queue

_MEMORY = 4096


class Exchange:
    """What all kinds have in common: a name and a table of bindings."""

    kind = ""

    def __init__(self, name: str, *, durable: bool = True, auto_delete: bool = False, internal: bool = False) -> None:
        self.name = name
        self.durable = durable
        self.auto_delete = auto_delete
        self.internal = internal
        # Dictionaries serve as sets that keep their order, so that a test and a person see the same one every time.
        self.bindings: dict[str, dict[Queue, None]] = {}

    def bind(self, queue: Queue, key: str) -> bool:
        """Whether that is new."""
        queues = self.bindings.setdefault(key, {})
        if queue in queues:
            return False
        queues[queue] = None
        self._changed()
        return True

    def has(self, queue: Queue, key: str) -> bool:
        """Whether there is such a binding."""
        return queue in self.bindings.get(key, ())

    def unbind(self, queue: Queue, key: str) -> bool:
        """Whether there was such a binding."""
        queues = self.bindings.get(key, {})
        if queue not in queues:
            return False
        del queues[queue]
        if not queues:
            del self.bindings[key]
        self._changed()
        return True

    def forget(self, queue: Queue) -> bool:
        """Remove every binding of a queue that is going; whether there was one."""
        return any([self.unbind(queue, key) for key in list(self.bindings)])

    def route(self, key: str) -> Collection[Queue]:
        """The queues that get a message published with this key, each once."""
        raise NotImplementedError

    def _changed(self) -> None:
        pass


class Direct(Exchange):
    """The key is the binding's key."""

    kind = "direct"

    def route(self, key: str) -> Collection[Queue]:
        return self.bindings.get(key, ())


class Fanout(Exchange):
    """Every bound queue."""

    kind = "fanout"

    def route(self, key: str) -> Collection[Queue]:
        return {queue: None for queues in self.bindings.values() for queue in queues}


class Topic(Exchange):
    """Words divided by dots; in a binding `*` is one word and `#` any number of them."""

    kind = "topic"

    def __init__(self, name: str, *, durable: bool = True, auto_delete: bool = False, internal: bool = False) -> None:
        super().__init__(name, durable=durable, auto_delete=auto_delete, internal=internal)
        self._routes: dict[str, dict[Queue, None]] = {}

    def route(self, key: str) -> Collection[Queue]:
        found = self._routes.get(key)
        if found is None:
            found = {q: None for pattern, queues in self.bindings.items() if matches(pattern, key) for q in queues}
            if len(self._routes) >= _MEMORY:
                self._routes.clear()
            self._routes[key] = found
        return found

    def _changed(self) -> None:
        self._routes.clear()


KINDS: dict[str, type[Exchange]] = {kind.kind: kind for kind in (Direct, Fanout, Topic)}


def matches(pattern: str, key: str) -> bool:
    """Whether a topic pattern covers a routing key.

    All ways to read the pattern are followed side by side, so that many `#` cost no more than their number.
    """
    parts = pattern.split(".") if pattern else []
    words = key.split(".") if key else []
    reached = _past_hashes({0}, parts)
    for word in words:
        after = set()
        for at in reached:
            if at < len(parts):
                if parts[at] == "#":
                    after.add(at)
                elif parts[at] in ("*", word):
                    after.add(at + 1)
        reached = _past_hashes(after, parts)
        if not reached:
            return False
    return len(parts) in reached


def _past_hashes(reached: set[int], parts: list[str]) -> set[int]:
    """`#` may stand for no word at all: where it can be stepped over, both places are reached."""
    todo = list(reached)
    while todo:
        at = todo.pop()
        if at < len(parts) and parts[at] == "#" and at + 1 not in reached:
            reached.add(at + 1)
            todo.append(at + 1)
    return reached
