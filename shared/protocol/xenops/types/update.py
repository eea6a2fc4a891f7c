# SPDX-License-Identifier: Apache-2.0
"""What changed: ids only, newest change of each; the receiver asks for the rest."""

from typing import Annotated

from msgspec import Meta, field

from xenops.events import Change, Kind
from xenops.types.record import Record

Token = Annotated[
    str, Meta(max_length=64, description="a place in the stream of changes; opaque: hand back what you were given")
]


class Update(Record, frozen=True, kw_only=True):
    """One object and its latest change; a device's id is `<vm>.<device>`."""

    kind: Kind
    id: str
    change: Change


class Barrier(Record, frozen=True, kw_only=True):
    """A mark in the stream: `updates` are the changes of one VM that had happened when it was injected."""

    id: int
    updates: list[Update] = field(default_factory=list)


class Updates(Record, frozen=True, kw_only=True):
    """What `UPDATES.get` answers; with `resync` set, history was lost: list everything afresh, then go on from `token`."""

    barriers: list[Barrier] = field(default_factory=list)
    updates: list[Update] = field(default_factory=list)
    token: Token
    resync: bool = False
