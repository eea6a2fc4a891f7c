# SPDX-License-Identifier: Apache-2.0
"""What every type that travels has in common: immutable, keyword only, strict about its fields.

An optional field is *absent* from the bytes rather than null: its type is `Maybe[T]` and its default is `UNSET`.
Fields nobody declared are refused on decoding; `xenops.wire.lenient` forgives them where the contract says so.
"""

from typing import TypeAlias, TypeVar, Union

import msgspec
from msgspec import UNSET, UnsetType

__all__ = ["UNSET", "Maybe", "Record", "UnsetType"]

T = TypeVar("T")
Maybe: TypeAlias = Union[T, UnsetType]


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parent of all types on the wire; unions of records carry one `type` tag."""
