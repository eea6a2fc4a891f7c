# SPDX-License-Identifier: Apache-2.0
"""What xenstore should do, as a dictionary of paths: the reference that the daemons and the client are compared with.

Permissions, quotas and conflicts between clients are left out: there the daemons differ, and rightly.
"""

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from xenops.errors import IoError
from xenopsd.backends.xen.xenstore.client import Change, Mkdir, Remove, SetPerms, Write
from xenopsd.backends.xen.xenstore.wire import raw, text


class Model:
    """The same words as the client's."""

    def __init__(self) -> None:
        self.nodes = {"/": b""}

    async def read(self, path: str) -> str | None:
        value = self.nodes.get(path)
        return None if value is None else text(value)

    async def ls(self, path: str) -> list[str]:
        return [each.rpartition("/")[2] for each in self.nodes if each.rpartition("/")[0] == path]

    async def tree(self, path: str) -> dict[str, str]:
        return {each: text(value) for each, value in self.nodes.items() if _at_or_below(each, path)}

    async def write(self, path: str, value: bytes) -> None:
        await self.mkdir(path)
        self.nodes[path] = value

    async def mkdir(self, path: str) -> None:
        while path not in self.nodes and path:
            self.nodes[path] = b""
            path = path.rpartition("/")[0]

    async def rm(self, path: str) -> None:
        self.nodes = {each: value for each, value in self.nodes.items() if not _at_or_below(each, path)}

    async def apply(self, changes: Iterable[Change]) -> None:
        before = dict(self.nodes)
        for change in changes:
            match change:
                case Write(path, value):
                    await self.write(path, raw(value))
                case Mkdir(path):
                    await self.mkdir(path)
                case Remove(path):
                    await self.rm(path)
                case SetPerms(path):
                    if path not in self.nodes:
                        self.nodes = before
                        raise IoError(path, "ENOENT")

    async def commit(self, changes: Iterable[Change]) -> None:
        await self.apply(changes)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Model"]:
        view = Model()
        view.nodes = dict(self.nodes)
        yield view
        self.nodes = view.nodes


def _at_or_below(path: str, top: str) -> bool:
    return path == top or path.startswith(f"{top}/")
