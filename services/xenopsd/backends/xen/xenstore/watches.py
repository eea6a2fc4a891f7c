# SPDX-License-Identifier: Apache-2.0
"""Watches: which paths changed, told to whoever looks at them.

A guest may write without end to a path that is watched: a change that was not taken yet is told once, and beyond
`LIMIT` different paths all that is said is that something below the watched path changed. What changed is not said: read it.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from itertools import count

from xenopsd.backends.xen.xenstore.wire import Operation, Request

LIMIT = 1024


class Watch(AsyncIterator[str]):
    """The untrusted paths that fired, each once until it is taken; every watched path fires once in the beginning."""

    def __init__(self, paths: tuple[str, ...], token: str) -> None:
        self.paths = paths
        self.token = token
        self._fired: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._closed = False

    def requests(self, operation: Operation) -> list[Request]:
        """What begins or ends it on the wire."""
        return [Request(operation, (path, self.token)) for path in self.paths]

    def fire(self, untrusted_path: str) -> None:
        """Something changed there."""
        if len(self._fired) >= LIMIT and untrusted_path not in self._fired:
            self._fired = dict.fromkeys(self.paths)
        self._fired[untrusted_path] = None
        self._wake.set()

    def drain(self) -> None:
        """Forget what fired until now: it is about to be looked at anyway."""
        self._fired.clear()

    def close(self) -> None:
        """There will be no more; whoever iterates comes to an end."""
        self._closed = True
        self._wake.set()

    async def __anext__(self) -> str:
        while not self._fired:
            if self._closed:
                raise StopAsyncIteration
            self._wake.clear()
            await self._wake.wait()
        first = next(iter(self._fired))
        del self._fired[first]
        return first


class Watches:
    """All watches of a client, by token. An event for one that has ended meanwhile is dropped."""

    def __init__(self) -> None:
        self._by_token: dict[str, Watch] = {}
        self._numbers = count(1)

    def __iter__(self) -> Iterator[Watch]:
        return iter(list(self._by_token.values()))

    def prepare(self, paths: Iterable[str]) -> Watch:
        """A watch with a token that no other has had; it is not among these yet."""
        return Watch(tuple(dict.fromkeys(paths)), f"w{next(self._numbers)}")

    def add(self, watch: Watch) -> None:
        """Its events are for it from now on."""
        self._by_token[watch.token] = watch

    def remove(self, watch: Watch) -> None:
        """Nobody looks any more."""
        self._by_token.pop(watch.token, None)

    def fired(self, untrusted_path: str, token: str) -> None:
        """An event came in."""
        if watch := self._by_token.get(token):
            watch.fire(untrusted_path)
