# SPDX-License-Identifier: Apache-2.0
"""Changes to the tree as plain data, so that a whole subtree can be described, read, and made in one transaction.

Permissions are xenstore's own words, the owner first: `("n0", "r5")` belongs to domain 0, domain 5 may read it, and others
may do nothing (r, w, b: both, n: none).
"""

from dataclasses import dataclass

from xenopsd.backends.xen.xenstore.wire import Operation, Request, raw

Perms = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Write:
    """A node has this value; it and its parents are made when missing."""

    path: str
    value: str | bytes = b""
    perms: Perms = ()

    def requests(self) -> list[Request]:
        """What is said on the wire."""
        return [Request(Operation.WRITE, (self.path,), raw(self.value)), *_owned(self.path, self.perms)]


@dataclass(frozen=True, slots=True)
class Mkdir:
    """A node is there; one that is there already keeps its value."""

    path: str
    perms: Perms = ()

    def requests(self) -> list[Request]:
        """What is said on the wire."""
        return [Request(Operation.MKDIR, (self.path,)), *_owned(self.path, self.perms)]


@dataclass(frozen=True, slots=True)
class Remove:
    """A node and all below it are gone; that they never were there is as well."""

    path: str

    def requests(self) -> list[Request]:
        """What is said on the wire."""
        return [Request(Operation.RM, (self.path,))]


@dataclass(frozen=True, slots=True)
class SetPerms:
    """A node that is there has these permissions."""

    path: str
    perms: Perms

    def requests(self) -> list[Request]:
        """What is said on the wire."""
        return _owned(self.path, self.perms)


Change = Write | Mkdir | Remove | SetPerms


def _owned(path: str, perms: Perms) -> list[Request]:
    return [Request(Operation.SET_PERMS, (path, *perms))] if perms else []
