# SPDX-License-Identifier: Apache-2.0
"""A message's properties, cut at their seams: read and changed one by one, all others left byte for byte as they came.

Pure. A field table is cut too, never decoded: what a publisher wrote as a float comes out as that float.
"""

import struct
from datetime import UTC, datetime
from functools import lru_cache

from message_switch.frames import field, short
from message_switch.model.faults import Code, ConnectionFault
from message_switch.model.message import Death

HEADERS, DELIVERY_MODE, PRIORITY, REPLY_TO, EXPIRATION, USER_ID = 13, 12, 11, 9, 8, 4
PERSISTENT = b"\x02"
NAMES = {
    15: "content_type", 14: "content_encoding", HEADERS: "headers", DELIVERY_MODE: "delivery_mode", PRIORITY: "priority",
    10: "correlation_id", REPLY_TO: "reply_to", EXPIRATION: "expiration", 7: "message_id", 6: "timestamp", 5: "type",
    USER_ID: "user_id", 3: "app_id", 2: "cluster_id",
}  # fmt: skip
NUMBERS = (DELIVERY_MODE, PRIORITY, 6)

_BYTE, _TIMESTAMP, _SHORT, _TABLE = range(4)
_KINDS = {HEADERS: _TABLE, DELIVERY_MODE: _BYTE, PRIORITY: _BYTE, 6: _TIMESTAMP}
_flags = struct.Struct(">H")
_length = struct.Struct(">I")
_FIXED = dict(zip(b"tbBUusIilLfdDTV", (1, 1, 1, 2, 2, 2, 4, 4, 8, 8, 4, 8, 5, 8, 0), strict=True))
_SIZED = frozenset(b"SxAF")


@lru_cache(maxsize=256)
def _layout(flags: int) -> tuple[tuple[int, int], ...]:
    return tuple((bit, _KINDS.get(bit, _SHORT)) for bit in range(15, 1, -1) if flags >> bit & 1)


def split(untrusted: bytes) -> dict[int, bytes]:
    """Each property that is there, by its flag's bit, in the order of the wire."""
    found: dict[int, bytes] = {}
    try:
        flags = _flags.unpack_from(untrusted)[0]
        if flags & 3:
            raise _malformed()
        at = 2
        for bit, kind in _layout(flags):
            if kind == _SHORT:
                after = at + 1 + untrusted[at]
            elif kind == _TABLE:
                after = at + 4 + _length.unpack_from(untrusted, at)[0]
            else:
                after = at + (1 if kind == _BYTE else 8)
            found[bit] = untrusted[at:after]
            at = after
    except (struct.error, IndexError):
        raise _malformed() from None
    if at != len(untrusted):
        raise _malformed()
    return found


def join(parts: dict[int, bytes]) -> bytes:
    """The reverse of `split`."""
    bits = sorted(parts, reverse=True)
    return _flags.pack(sum(1 << bit for bit in bits)) + b"".join(parts[bit] for bit in bits)


def text(parts: dict[int, bytes], bit: int) -> str | None:
    """A short string property."""
    raw = parts.get(bit)
    return None if raw is None else raw[1:].decode(errors="replace")


def priority(header: bytes) -> int:
    """Of a message; 0 if it does not say."""
    return split(header).get(PRIORITY, b"\0")[0]


def with_reply_to(untrusted: bytes, parts: dict[int, bytes], name: str) -> bytes:
    """The same properties, which have one, with another reply_to: spliced, for every request goes through here."""
    at = 2
    for bit, value in parts.items():
        if bit == REPLY_TO:
            return untrusted[:at] + short(name) + untrusted[at + len(value) :]
        at += len(value)
    raise KeyError(REPLY_TO)


def with_deaths(header: bytes, deaths: tuple[Death, ...], expiration_ms: int | None) -> bytes:
    """The same properties with the `x-death` headers of a dead-lettered message, and without an expiry of its own."""
    parts = split(header)
    parts.pop(EXPIRATION, None)
    try:
        rows = split_table(parts.get(HEADERS, b"\0\0\0\0"))
    except ConnectionFault:
        rows = {}  # a table that cannot be read cannot be added to: the message goes on without its headers
    first = deaths[-1]
    rows[b"x-death"] = field([_row(death, expiration_ms if death is deaths[0] else None) for death in deaths])
    rows.setdefault(b"x-first-death-exchange", field(first.exchange))
    rows.setdefault(b"x-first-death-queue", field(first.queue))
    rows.setdefault(b"x-first-death-reason", field(first.reason))
    parts[HEADERS] = join_table(rows)
    return join(parts)


def _row(death: Death, expiration_ms: int | None) -> dict[str, object]:
    row: dict[str, object] = {
        "count": death.count,
        "reason": death.reason,
        "queue": death.queue,
        "time": datetime.fromtimestamp(death.at, UTC),
        "exchange": death.exchange,
        "routing-keys": [death.routing_key],
    }
    if expiration_ms is not None:
        row["original-expiration"] = str(expiration_ms)
    return row


def split_table(untrusted: bytes) -> dict[bytes, bytes]:
    """A field table's values with their types, undecoded, by name."""
    rows: dict[bytes, bytes] = {}
    try:
        end = 4 + _length.unpack_from(untrusted)[0]
        at = 4
        while at < end:
            name_end = at + 1 + untrusted[at]
            kind = untrusted[name_end]
            if kind in _SIZED:
                after = name_end + 5 + _length.unpack_from(untrusted, name_end + 1)[0]
            elif kind in _FIXED:
                after = name_end + 1 + _FIXED[kind]
            else:
                raise _malformed()
            rows[untrusted[at + 1 : name_end]] = untrusted[name_end:after]
            at = after
    except (struct.error, IndexError):
        raise _malformed() from None
    if at != end or end != len(untrusted):
        raise _malformed()
    return rows


def join_table(rows: dict[bytes, bytes]) -> bytes:
    """The reverse of `split_table`."""
    body = b"".join(bytes((len(name),)) + name + value for name, value in rows.items())
    return _length.pack(len(body)) + body


def _malformed() -> ConnectionFault:
    return ConnectionFault(Code.SYNTAX_ERROR, "malformed message properties")
