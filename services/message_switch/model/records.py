# SPDX-License-Identifier: Apache-2.0
"""What is written down so that it survives: one record for each change to something durable."""

from typing import Protocol

import msgspec

from message_switch.model.arguments import QueueArguments
from message_switch.model.message import Death


class QueueDeclared(msgspec.Struct, tag="q+", array_like=True):
    name: str
    auto_delete: bool
    arguments: QueueArguments


class QueueDeleted(msgspec.Struct, tag="q-", array_like=True):
    name: str


class ExchangeDeclared(msgspec.Struct, tag="x+", array_like=True):
    name: str
    kind: str
    auto_delete: bool
    internal: bool
    alternate: str | None = None


class ExchangeDeleted(msgspec.Struct, tag="x-", array_like=True):
    name: str


class Bound(msgspec.Struct, tag="b+", array_like=True):
    exchange: str
    queue: str
    key: str


class Unbound(msgspec.Struct, tag="b-", array_like=True):
    exchange: str
    queue: str
    key: str


class ExchangeBound(msgspec.Struct, tag="e+", array_like=True):
    exchange: str
    destination: str
    key: str


class ExchangeUnbound(msgspec.Struct, tag="e-", array_like=True):
    exchange: str
    destination: str
    key: str


class Stored(msgspec.Struct, tag="m+", array_like=True):
    """A persistent message came to these durable queues."""

    id: int
    queues: list[str]
    at: float
    exchange: str
    routing_key: str
    header: bytes
    body: bytes
    ttl_ms: int | None
    deaths: tuple[Death, ...]


class Settled(msgspec.Struct, tag="m-", array_like=True):
    """It is done with in one of them."""

    id: int
    queue: str


class LastId(msgspec.Struct, tag="id", array_like=True):
    """Numbers up to this one have been given out: none is ever used again."""

    id: int


Record = (
    QueueDeclared
    | QueueDeleted
    | ExchangeDeclared
    | ExchangeDeleted
    | Bound
    | Unbound
    | ExchangeBound
    | ExchangeUnbound
    | Stored
    | Settled
    | LastId
)

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Record] = msgspec.msgpack.Decoder(Record)


def encode(record: Record) -> bytes:
    """As it stands in the journal."""
    return _encoder.encode(record)


def decode(untrusted: bytes) -> Record:
    """The reverse; raises `msgspec.DecodeError` on anything else."""
    return _decoder.decode(untrusted)


class Ledger(Protocol):
    """Where records go."""

    def note(self, record: Record) -> int:
        """Write it down soon; the number is what `synced up to` is counted in."""

    def hurry(self) -> None:
        """Write down at once what was noted."""

    def forget(self, number: int) -> bool:
        """It need not be written down any more; False when that has begun already."""


class Nowhere:
    """A ledger that keeps nothing: for a switch without a disk, and while reading one back."""

    def note(self, record: Record) -> int:
        return 0

    def hurry(self) -> None:
        pass

    def forget(self, number: int) -> bool:
        return False
