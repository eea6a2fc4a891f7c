# SPDX-License-Identifier: Apache-2.0
"""Reading and changing nodes: the same words for the store as it is and for a transaction on it.

That a node is not there is an answer, not a fault: what is missing reads as None, has no children, and is removed already.
What is read was written by anybody, guests included: it is `untrusted_*` until parsed.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Perms, Remove, SetPerms, Write
from xenopsd.backends.xen.xenstore.connection import refused
from xenopsd.backends.xen.xenstore.wire import Operation, Packet, Request, Unencodable, WireError, part, strings, text

_BURST = 256  # how many requests of a walk are under way at once
_MISSING = ("ENOENT",)


class Nodes(ABC):
    """Nodes by path. Every call raises `IoError`, with the path, when xenstored refuses or does not answer."""

    @abstractmethod
    async def _ask(self, requests: Sequence[Request]) -> list[Packet]:
        """The answers to requests that go out in one piece."""

    async def read(self, path: str) -> str | None:
        """The value of a node; None when it is not there."""
        return (await self.read_many((path,)))[0]

    async def read_many(self, paths: Sequence[str]) -> list[str | None]:
        """The values of several nodes, for the price of one question."""
        found = await self._several([Request(Operation.READ, (path,)) for path in paths])
        return [None if untrusted is None else text(untrusted) for untrusted in found]

    async def write(self, path: str, value: str | bytes) -> None:
        """A node has this value; it and its parents are made when missing."""
        await self._apply(Write(path, value))

    async def mkdir(self, path: str) -> None:
        """A node is there."""
        await self._apply(Mkdir(path))

    async def rm(self, path: str) -> None:
        """A node and all below it are gone."""
        await self._apply(Remove(path))

    async def ls(self, path: str) -> list[str]:
        """The names of a node's children; none when it is not there."""
        return (await self.look((), (path,)))[1][0]

    async def look(self, values: Sequence[str], folders: Sequence[str]) -> tuple[list[str | None], list[list[str]]]:
        """The values of some nodes, and the names of the children of some, for the price of one question."""
        reads = [Request(Operation.READ, (path,)) for path in values]
        lists = [Request(Operation.DIRECTORY, (path,)) for path in folders]
        replies = await self._ask([*reads, *lists])
        found = [
            payload(read, reply, allowed=_MISSING) for read, reply in zip(reads, replies[: len(reads)], strict=True)
        ]
        names = [await self._names(each, reply) for each, reply in zip(lists, replies[len(reads) :], strict=True)]
        return [None if untrusted is None else text(untrusted) for untrusted in found], names

    async def _names(self, request: Request, reply: Packet) -> list[str]:
        if reply.error == "E2BIG":
            return await self._ls_in_parts(request.subject)
        return strings(payload(request, reply, allowed=_MISSING) or b"")

    async def get_perms(self, path: str) -> Perms | None:
        """A node's permissions, the owner first; None when it is not there."""
        [untrusted] = await self._several([Request(Operation.GET_PERMS, (path,))])
        return None if untrusted is None else tuple(strings(untrusted))

    async def set_perms(self, path: str, perms: Perms) -> None:
        """A node, which must be there, has these permissions."""
        await self._apply(SetPerms(path, perms))

    async def tree(self, path: str) -> dict[str, str]:
        """Every node at and below a path, and its value; not one moment's picture, unless in a transaction."""
        found: dict[str, str] = {}
        level = [path]
        while level:
            below: list[str] = []
            for start in range(0, len(level), _BURST // 2):
                below += await self._look(level[start : start + _BURST // 2], found)
            level = below
        return found

    async def _look(self, paths: list[str], found: dict[str, str]) -> list[str]:
        """Note the values of these nodes; give the paths of their children."""
        children: list[str] = []
        for path, untrusted, names in zip(paths, *await self.look(paths, paths), strict=True):
            if untrusted is not None:  # else it was removed since its parent was listed
                found[path] = untrusted
                children += [f"{path.rstrip('/')}/{name}" for name in names]
        return children

    async def _ls_in_parts(self, path: str) -> list[str]:
        """For a list that fits into no packet; begun again when the directory changes in between."""
        names: list[str] = []
        offset, generation = 0, ""
        while True:
            request = Request(Operation.DIRECTORY_PART, (path, str(offset)))
            [untrusted] = await self._several([request])
            if untrusted is None:
                return []
            try:
                piece = part(untrusted)
            except WireError as error:
                raise refused(request, "EIO", str(error)) from None
            if offset and piece.generation != generation:
                names, offset = [], 0
                continue
            names += piece.untrusted_names
            offset, generation = offset + piece.length, piece.generation
            if piece.last:
                return names

    async def _apply(self, change: Change) -> None:
        await self._several(said((change,)))

    async def _several(self, requests: Sequence[Request]) -> list[bytes | None]:
        """The answers; None for what is missing. The first other error is raised when all have been answered."""
        replies = await self._ask(requests)
        return [payload(each, reply, allowed=_allowed(each)) for each, reply in zip(requests, replies, strict=True)]


def said(changes: Iterable[Change]) -> list[Request]:
    """Changes as requests. Raises `IoError` for one that cannot be said."""
    requests: list[Request] = []
    for change in changes:
        try:
            requests += change.requests()
        except Unencodable as error:
            raise refused(Request(Operation.WRITE, (change.path,)), error.error, str(error)) from None
    return requests


_MAY_BE_MISSING = {Operation.READ, Operation.DIRECTORY, Operation.DIRECTORY_PART, Operation.GET_PERMS, Operation.RM}


def _allowed(request: Request) -> tuple[str, ...]:
    return _MISSING if request.operation in _MAY_BE_MISSING else ()


def payload(request: Request, reply: Packet, *, allowed: tuple[str, ...] = ()) -> bytes | None:
    """What was answered; None for an error that is an answer too. Raises `IoError` for any other error."""
    error = reply.error
    if error is None:
        return reply.untrusted_payload
    if error in allowed:
        return None
    raise refused(request, error)
