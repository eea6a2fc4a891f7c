# SPDX-License-Identifier: Apache-2.0
"""A seal on what is kept: bytes that a disk has changed, or put in another's place, are not taken for a record.

Pure. A digest over the record and the key it is kept under goes before it; it guards against decay, not against people.
"""

from hashlib import blake2b

_SIZE = 8


class Damaged(Exception):
    """The seal is broken."""


def seal(record: bytes, *key: str) -> bytes:
    """A record as it is kept under a key."""
    return _digest(record, key) + record


def unseal(kept: object, *key: str) -> bytes:
    """The record that is kept under a key; raises `Damaged`."""
    if not isinstance(kept, bytes) or kept[:_SIZE] != _digest(kept[_SIZE:], key):
        raise Damaged(f"the seal of {' '.join(map(str, key))} is broken")
    return kept[_SIZE:]


def _digest(record: bytes, key: tuple[str, ...]) -> bytes:
    return blake2b(record, digest_size=_SIZE, key="\0".join(map(str, key)).encode("utf-8", "replace")[-64:]).digest()
