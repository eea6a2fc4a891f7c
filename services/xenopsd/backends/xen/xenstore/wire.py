# SPDX-License-Identifier: Apache-2.0
"""xenstore's wire protocol (xen/io/xs_wire.h): requests to bytes, bytes to packets. Sans I/O.

    0        4            8               12       16
    | type   | request id | transaction   | length | payload, at most 4096 bytes in a request

All numbers are little-endian words of 32 bits, as on every machine that Xen runs on. It is fed by a daemon that repeats
what guests wrote: whatever comes, no more than one packet is kept, and all that is ever raised is `WireError`.
"""

import struct
from enum import IntEnum
from typing import NamedTuple

PAYLOAD_LIMIT = 4096  # of a request
REPLY_LIMIT = 1 << 24  # oxenstored does not cut a directory's list into parts, however long it is
_HEADER = struct.Struct("<IIII")


class Operation(IntEnum):
    """What a packet is; 20 was RESTRICT, which no daemon has any more."""

    CONTROL = 0
    DIRECTORY = 1
    READ = 2
    GET_PERMS = 3
    WATCH = 4
    UNWATCH = 5
    TRANSACTION_START = 6
    TRANSACTION_END = 7
    INTRODUCE = 8
    RELEASE = 9
    GET_DOMAIN_PATH = 10
    WRITE = 11
    MKDIR = 12
    RM = 13
    SET_PERMS = 14
    WATCH_EVENT = 15
    ERROR = 16
    IS_DOMAIN_INTRODUCED = 17
    RESUME = 18
    SET_TARGET = 19
    RESET_WATCHES = 21
    DIRECTORY_PART = 22


_OPERATIONS = {int(each): each for each in Operation}


class WireError(Exception):
    """The peer says something that the protocol does not know."""


class Unencodable(Exception):
    """A request that cannot be said in the protocol; `error` is the name that a daemon would have for it."""

    def __init__(self, error: str, reason: str) -> None:
        super().__init__(reason)
        self.error = error


class Request(NamedTuple):
    """An operation, its strings (each goes out with a NUL behind it), and what follows them as it is."""

    operation: Operation
    fields: tuple[str, ...] = ("",)
    tail: bytes = b""

    @property
    def subject(self) -> str:
        """The path, or whatever else comes first."""
        return self.fields[0]


class Packet(NamedTuple):
    """What came in."""

    operation: Operation
    request_id: int
    transaction: int
    untrusted_payload: bytes

    @property
    def error(self) -> str | None:
        """The name of the error that this is, if it is one: ENOENT, EAGAIN, EACCES, ..."""
        if self.operation is not Operation.ERROR:
            return None
        name = text(self.untrusted_payload.partition(b"\0")[0])
        return name if name.isascii() and name.isalnum() else "EIO"


class Part(NamedTuple):
    """A piece of a directory's list: which state of the directory it is from, and whether it is the last one."""

    generation: str
    untrusted_names: list[str]
    length: int
    last: bool


class Decoder:
    """Feed bytes in any pieces, get packets; `broken` says what was malformed, and then there is nothing more to be had."""

    def __init__(self) -> None:
        self.broken = ""
        self._inbox = b""

    def feed(self, untrusted_data: bytes) -> list[Packet]:
        """The packets that are complete now."""
        if self.broken:
            return []
        inbox = self._inbox + untrusted_data
        packets: list[Packet] = []
        at = 0
        while len(inbox) - at >= _HEADER.size:
            kind, request_id, transaction, length = _HEADER.unpack_from(inbox, at)
            operation = _OPERATIONS.get(kind)
            if operation is None or length > REPLY_LIMIT:
                self.broken = f"a packet of type {kind} and {length} bytes cannot be"
                break
            end = at + _HEADER.size + length
            if end > len(inbox):
                break
            packets.append(Packet(operation, request_id, transaction, inbox[at + _HEADER.size : end]))
            at = end
        self._inbox = b"" if self.broken else inbox[at:]
        return packets


def encode(request: Request, request_id: int, transaction: int = 0) -> bytes:
    """The bytes of a request. Raises `Unencodable`."""
    said = raw("\0".join((*request.fields, "")))
    if said.count(b"\0") != len(request.fields):
        raise Unencodable("EINVAL", "a NUL inside a string would end it early")
    payload = said + request.tail
    if len(payload) > PAYLOAD_LIMIT:
        # A daemon would close the connection for it.
        raise Unencodable("E2BIG", f"{len(payload)} bytes are more than the {PAYLOAD_LIMIT} that a packet can hold")
    return _HEADER.pack(request.operation, request_id, transaction, len(payload)) + payload


def encode_packet(packet: Packet) -> bytes:
    """The bytes of a packet of any kind."""
    payload = packet.untrusted_payload
    return _HEADER.pack(packet.operation, packet.request_id, packet.transaction, len(payload)) + payload


def text(untrusted_bytes: bytes) -> str:
    """Bytes of the store as a string that `raw` turns into the same bytes again, whatever they are."""
    return untrusted_bytes.decode("utf-8", "surrogateescape")


def raw(value: str | bytes) -> bytes:
    """A value as the store keeps it. Raises `Unencodable`."""
    if isinstance(value, bytes):
        return value
    try:
        return value.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise Unencodable("EINVAL", str(error)) from None


def strings(untrusted_payload: bytes) -> list[str]:
    """A list of strings, each with a NUL behind it."""
    return [text(each) for each in untrusted_payload.removesuffix(b"\0").split(b"\0")] if untrusted_payload else []


def part(untrusted_payload: bytes) -> Part:
    """The answer to DIRECTORY_PART: a generation, names, and an empty name after the last. Raises `WireError`."""
    generation, separator, names = untrusted_payload.partition(b"\0")
    if not separator:
        raise WireError("a part of a directory without its generation")
    last = names.endswith(b"\0\0") or names in (b"\0", b"")
    listed = names.removesuffix(b"\0") if last else names
    return Part(text(generation), strings(listed), len(listed), last)
