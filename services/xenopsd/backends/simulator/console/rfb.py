# SPDX-License-Identifier: Apache-2.0
"""The server's side of RFB 3.8 (RFC 6143): eight bars that move on by one whenever the guest prints. Sans I/O: bytes in,
bytes and typed keys out.

It is fed by strangers: whatever they send, it keeps no more than one message, and all it raises is `RfbError`.
"""

import struct
from collections.abc import Generator

WIDTH, HEIGHT = 160, 100
_VERSION = b"RFB 003.008\n"
_NO_SECURITY = 1
_BARS = ((9, 9, 9), (9, 9, 1), (1, 9, 9), (1, 8, 1), (8, 1, 8), (8, 1, 1), (1, 1, 8), (1, 1, 1))  # in ninths
_FORMAT = struct.Struct(">BBBBHHHBBB3x")
_TRUE_COLOUR = _FORMAT.pack(32, 24, 0, 1, 255, 255, 255, 16, 8, 0)
_CUT_TEXT_LIMIT = 1 << 20
_KEYS = {0xFF08: b"\b", 0xFF0D: b"\r", 0xFF8D: b"\r"}  # X11's keysyms; those of ASCII are ASCII


class RfbError(Exception):
    """The peer says something that RFB 3.8 does not know."""


class ServerSession:
    """Feed bytes with `receive`; send what `data_to_send` gives, type what `keys_typed` gives."""

    def __init__(self, name: str) -> None:
        self._name = name.encode()
        self._format = _TRUE_COLOUR
        self._inbox = bytearray()
        self._outbox = bytearray()
        self._keys = b""
        self._turn = 0
        self._changed = False  # since the peer was sent the picture
        self._waits = False  # the peer, for a change
        self._script = self._run()
        next(self._script)

    def receive(self, untrusted_data: bytes) -> None:
        """Go on with the conversation. Raises `RfbError`."""
        self._inbox += untrusted_data
        next(self._script)

    def data_to_send(self) -> bytes:
        """What the peer should get next."""
        data = bytes(self._outbox)
        self._outbox.clear()
        return data

    def keys_typed(self) -> bytes:
        """What the peer typed since, as a terminal would send it."""
        keys, self._keys = self._keys, b""
        return keys

    def move_on(self) -> None:
        """The picture changes."""
        self._turn = (self._turn + 1) % len(_BARS)
        self._changed = True
        if self._waits:
            self._show()

    def _show(self) -> None:
        self._changed = self._waits = False
        self._outbox += struct.pack(">BxHHHHHi", 0, 1, 0, 0, WIDTH, HEIGHT, 0) + picture(self._format, self._turn)

    def _read(self, count: int) -> Generator[None, None, bytes]:
        while len(self._inbox) < count:
            yield
        taken = bytes(self._inbox[:count])
        del self._inbox[:count]
        return taken

    def _skip(self, count: int) -> Generator[None, None, None]:
        while count:
            dropped = min(count, len(self._inbox))
            del self._inbox[:dropped]
            count -= dropped
            if count:
                yield

    def _run(self) -> Generator[None, None, None]:
        self._outbox += _VERSION
        if (yield from self._read(len(_VERSION))) != _VERSION:
            raise RfbError("only RFB 3.8 is spoken here")
        self._outbox += bytes((1, _NO_SECURITY))
        if (yield from self._read(1)) != bytes((_NO_SECURITY,)):
            raise RfbError("that security type was not offered")
        self._outbox += (0).to_bytes(4, "big")
        yield from self._read(1)  # shared or not: whoever looks sees the same guest
        self._outbox += struct.pack(">HH", WIDTH, HEIGHT) + self._format
        self._outbox += len(self._name).to_bytes(4, "big") + self._name
        while True:
            yield from self._message()

    def _message(self) -> Generator[None, None, None]:
        kind = (yield from self._read(1))[0]
        if kind == 0:
            self._format = _checked((yield from self._read(19))[3:])
        elif kind == 2:
            count = int.from_bytes((yield from self._read(3))[1:], "big")
            yield from self._skip(4 * count)  # raw is always allowed, so the list does not matter
        elif kind == 3:
            incremental = (yield from self._read(9))[0] != 0
            if self._changed or not incremental:
                self._show()
            else:
                self._waits = True
        elif kind == 4:
            down, keysym = struct.unpack(">?2xI", (yield from self._read(7)))
            if down:
                self._keys += _KEYS.get(keysym, bytes((keysym,)) if 32 <= keysym < 127 else b"")
        elif kind == 5:
            yield from self._skip(5)
        elif kind == 6:
            length = int.from_bytes((yield from self._read(7))[3:], "big")
            if length > _CUT_TEXT_LIMIT:
                raise RfbError(f"{length} bytes of cut text are too many")
            yield from self._skip(length)
        else:
            raise RfbError(f"there is no message of type {kind}")


def picture(pixel_format: bytes, turn: int = 0) -> bytes:
    """Eight bars, the one that is number `turn` first, in the peer's own format of pixels."""
    bits, _, big, _, red_max, green_max, blue_max, red_shift, green_shift, blue_shift = _FORMAT.unpack(pixel_format)
    row = b""
    for red, green, blue in _BARS[turn:] + _BARS[:turn]:
        value = red * red_max // 9 << red_shift
        value |= green * green_max // 9 << green_shift | blue * blue_max // 9 << blue_shift
        pixel = (value & ((1 << bits) - 1)).to_bytes(bits // 8, "big" if big else "little")
        row += pixel * (WIDTH // len(_BARS))
    return row * HEIGHT


def _checked(untrusted_format: bytes) -> bytes:
    bits = untrusted_format[0]
    shifts = untrusted_format[10:13]
    if bits not in (8, 16, 32) or max(shifts) >= 32:
        raise RfbError(f"pixels of {bits} bits and shifts {list(shifts)} cannot be")
    return untrusted_format
