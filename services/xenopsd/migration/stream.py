# SPDX-License-Identifier: Apache-2.0
"""The stream that a machine's memory travels in: a greeting with a ticket, then frames. Pure.

    source -> destination   XENOPS-MIGRATION, version, ticket
    destination -> source   the same signature, version: go on; or the connection ends
    source -> destination   frames: kind, number, length, checksum, payload; the last one is END

Frames are numbered from 0 and bounded; END carries the number of bytes and the SHA-256 of all that was sent, so that nothing that is
cut, repeated or mixed up is ever taken for a machine's memory. What is written here is opaque: the backends at both ends know it.
"""

import hashlib
import hmac
import struct
import zlib
from collections.abc import Callable

VERSIONS = (1,)  # that this xenopsd speaks, the newest last
SIGNATURE = b"XENOPS-MIGRATION"
TICKET_BYTES = 32
CHUNK = 1 << 20  # the largest payload, compressed or not

_GREETING = struct.Struct(f">{len(SIGNATURE)}sH{TICKET_BYTES}s")
_WELCOME = struct.Struct(f">{len(SIGNATURE)}sH")
_HEADER = struct.Struct(">BIII")
_END = struct.Struct(">Q32s")
_DATA, _COMPRESSED, _LAST = 1, 2, 3
GREETING_BYTES, WELCOME_BYTES = _GREETING.size, _WELCOME.size

Codec = Callable[[bytes], bytes]


class Damaged(ValueError):
    """The bytes are no such stream; the text says why."""


def agreed(theirs: list[int]) -> int | None:
    """The newest version that both ends speak."""
    return max(set(VERSIONS) & set(theirs), default=None)


def greeting(version: int, ticket: bytes) -> bytes:
    """What the source says first."""
    return _GREETING.pack(SIGNATURE, version, ticket)


def parse_greeting(untrusted: bytes) -> tuple[int, bytes]:
    """The version and the ticket. Raises `Damaged`."""
    if len(untrusted) != _GREETING.size:
        raise Damaged(f"a greeting has {_GREETING.size} bytes, not {len(untrusted)}")
    signature, version, ticket = _GREETING.unpack(untrusted)
    if signature != SIGNATURE:
        raise Damaged("this is no migration stream: its signature is missing")
    if version not in VERSIONS:
        raise Damaged(f"version {version} of the stream is not spoken here")
    return version, ticket


def same_ticket(one: bytes, other: bytes) -> bool:
    """Whether they are, told in a time that says nothing of either."""
    return hmac.compare_digest(one, other)


def welcome(version: int) -> bytes:
    """What the destination answers to a ticket that it gave out."""
    return _WELCOME.pack(SIGNATURE, version)


def parse_welcome(untrusted: bytes) -> int:
    """The version. Raises `Damaged`."""
    if len(untrusted) != _WELCOME.size:
        raise Damaged(
            "the destination ended the connection instead of a welcome: it does not know the ticket (any more)"
        )
    signature, version = _WELCOME.unpack(untrusted)
    if signature != SIGNATURE or version not in VERSIONS:
        raise Damaged("the other end is no destination of a migration")
    return int(version)


class Writer:
    """The source's end of the frames."""

    def __init__(self, compress: Codec | None = None) -> None:
        self._compress, self._number = compress, 0
        self._digest, self.total = hashlib.sha256(), 0

    def data(self, payload: bytes) -> bytes:
        """The frames of some bytes."""
        self._digest.update(payload)
        self.total += len(payload)
        return b"".join(self._frame(payload[at : at + CHUNK]) for at in range(0, len(payload), CHUNK))

    def end(self) -> bytes:
        """The last frame."""
        return self._pack(_LAST, _END.pack(self.total, self._digest.digest()))

    def _frame(self, payload: bytes) -> bytes:
        if self._compress is not None and len(small := self._compress(payload)) < len(payload):
            return self._pack(_COMPRESSED, small)
        return self._pack(_DATA, payload)

    def _pack(self, kind: int, payload: bytes) -> bytes:
        header = _HEADER.pack(kind, self._number, len(payload), _checksum(kind, self._number, payload))
        self._number += 1
        return header + payload


class Reader:
    """The destination's end: fed with whatever arrives, gives payloads; `whole` once END has been seen and holds."""

    def __init__(self, expand: Codec | None = None) -> None:
        self._expand, self._number = expand, 0
        self._digest, self.total = hashlib.sha256(), 0
        self._untrusted = bytearray()
        self.whole = False

    def receive(self, untrusted: bytes) -> list[bytes]:
        """The payloads that are complete by now. Raises `Damaged`, and then for ever."""
        self._untrusted += untrusted
        payloads: list[bytes] = []
        while len(self._untrusted) >= _HEADER.size:
            if self.whole:
                break
            kind, number, length, checksum = _HEADER.unpack_from(self._untrusted)
            if kind not in (_DATA, _COMPRESSED, _LAST) or length > CHUNK:
                raise Damaged(f"frame {self._number} is none: kind {kind}, {length} bytes")
            if number != self._number:
                raise Damaged(f"frame {number} came where {self._number} was due")
            if len(self._untrusted) < _HEADER.size + length:
                break
            payload = bytes(self._untrusted[_HEADER.size : _HEADER.size + length])
            del self._untrusted[: _HEADER.size + length]
            if _checksum(kind, number, payload) != checksum:
                raise Damaged(f"frame {number} is damaged: its checksum is wrong")
            self._number += 1
            if (data := self._take(kind, payload)) is not None:
                payloads.append(data)
        if self.whole and self._untrusted:
            raise Damaged("there are bytes after the end")
        return payloads

    def _take(self, kind: int, payload: bytes) -> bytes | None:
        if kind == _LAST:
            if payload != _END.pack(self.total, self._digest.digest()):
                raise Damaged("the end does not agree with what came before it")
            self.whole = True
            return None
        if kind == _COMPRESSED:
            if self._expand is None:
                raise Damaged("a compressed frame, and no compression was agreed on")
            payload = self._expand(payload)
        self._digest.update(payload)
        self.total += len(payload)
        return payload


def _checksum(kind: int, number: int, payload: bytes) -> int:
    return zlib.crc32(payload, zlib.crc32(struct.pack(">BI", kind, number)))
