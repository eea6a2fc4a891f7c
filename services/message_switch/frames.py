# SPDX-License-Identifier: Apache-2.0
"""AMQP 0-9-1 on the wire: bytes to frames and back.

The AMQP client library appears in this file only, and only as a codec of methods. What is done for every message (publish,
deliver, ack) is packed and unpacked here by hand, and a message's properties are never decoded: they are passed on as they
came. No socket, no clock, no state but that of the reader.
"""

import struct
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from pika import data, exceptions
from pika import spec as spec

from message_switch.model.faults import Code, ConnectionFault

METHOD, HEADER, BODY, HEARTBEAT = spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY, spec.FRAME_HEARTBEAT
# Not on the wire: how the reader hands over the eight bytes with which a connection starts, and the three frames of a message,
# and how it says that it has come half-way.
PROTOCOL_HEADER = 0
MESSAGE = 9
GREETING = b"AMQP\x00\x00\x09\x01"
FRAME_MIN = spec.FRAME_MIN_SIZE
OVERHEAD = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE

PUBLISH = spec.Basic.Publish.INDEX
ACK = spec.Basic.Ack.INDEX
_BASIC, _DELIVER = spec.Basic.INDEX, spec.Basic.Deliver.INDEX
_PUBLISH = PUBLISH.to_bytes(4, "big")

_END = b"\xce"
_frame = struct.Struct(">BHI")
_long = struct.Struct(">I")
_method_frame = struct.Struct(">BHII")
_content = struct.Struct(">HHQ")
_size = struct.Struct(">Q")
_CONTENT_MIN = 2 * OVERHEAD + 14
_deliver_tail = struct.Struct(">QB")
_content_frame = struct.Struct(">BHIHHQ")
_ack = struct.Struct(">IQB")
_settle_frame = struct.Struct(">BHIIQBB")

# The library's methods carry no types.
Method = Any
Frame = tuple[int, int, bytes] | tuple[int, int, bytes, bytes, bytes]

HALF_WAY: Frame = (10, 0, b"")
_MANY = 12  # Of few, with large bodies, the more are written at once the better.
HEARTBEAT_FRAME = _frame.pack(HEARTBEAT, 0, 0) + _END


class FrameReader:
    """Give it bytes as they come; it gives whole frames: (kind, channel, payload).

    A basic.publish with its content in a single frame is what it mostly reads. If all three are there they are given together:
    (`MESSAGE`, channel, method, header, body). Where half of many that came at once have been given stands `HALF_WAY`.
    """

    def __init__(self, frame_max: int) -> None:
        self.frame_max = frame_max
        self._parts: list[bytes] = []
        self._have = 0
        self._need = len(GREETING)
        self._greeted = False

    def feed(self, untrusted: bytes) -> Iterator[Frame]:
        """The frames that are now complete; a `ConnectionFault` comes after those before the mistake."""
        buffer = self._gather(untrusted)
        at, end = 0, len(buffer)
        if not end:
            return
        if not self._greeted:
            self._greeted = True
            at = len(GREETING)
            yield PROTOCOL_HEADER, 0, buffer[:at]
        half, given = (at + end) // 2, 0
        while end - at >= 7:
            if at >= half:
                half = end
                if given >= _MANY // 2:
                    yield HALF_WAY
            given += 1
            kind, channel, size = _frame.unpack_from(buffer, at)
            if size + OVERHEAD > self.frame_max:
                raise ConnectionFault(Code.FRAME_ERROR, f"frame of {size} bytes; the limit is {self.frame_max}")
            after = at + 8 + size
            if after > end:
                self._need = 8 + size
                break
            if buffer[after - 1] != 0xCE:
                raise ConnectionFault(Code.FRAME_ERROR, "a frame does not end where it says it does")
            if not (METHOD <= kind <= BODY or kind == HEARTBEAT):
                raise ConnectionFault(Code.FRAME_ERROR, f"there is no frame type {kind}")
            payload = buffer[at + 7 : after - 1]
            if kind == METHOD and end - after >= _CONTENT_MIN and payload[:4] == _PUBLISH and channel:
                middle, last = self._content(buffer, after, channel)
                if last:
                    yield MESSAGE, channel, payload, buffer[after + 7 : middle - 1], buffer[middle + 7 : last - 1]
                    at = last
                    continue
            yield kind, channel, payload
            at = after
        if at < end:
            self._parts, self._have = [buffer[at:]], end - at

    def _gather(self, untrusted: bytes) -> bytes:
        """All that has come, or nothing until some of it is complete: a frame in a thousand pieces is copied once."""
        self._have += len(untrusted)
        self._parts.append(untrusted)
        if self._have < self._need:
            return b""
        buffer = b"".join(self._parts) if len(self._parts) > 1 else untrusted
        self._parts, self._have, self._need = [], 0, 7
        return buffer

    def _content(self, buffer: bytes, at: int, channel: int) -> tuple[int, int]:
        """Where the header's frame and the body's end, if the whole content begins there and nothing is wrong with it; or 0."""
        kind, number, size = _frame.unpack_from(buffer, at)
        middle = at + 8 + size
        if kind != HEADER or number != channel or size < 14 or middle + 8 > len(buffer):
            return 0, 0
        kind, number, body = _frame.unpack_from(buffer, middle)
        last = middle + 8 + body
        good = (
            kind == BODY
            and number == channel
            and last <= len(buffer)
            and _size.unpack_from(buffer, at + 11)[0] == body > 0
            and buffer[middle - 1] == buffer[last - 1] == 0xCE
            and max(size, body) + OVERHEAD <= self.frame_max
        )
        return (middle, last) if good else (0, 0)


def method_id(untrusted: bytes) -> int:
    """Class and method of a method frame's payload, as one number."""
    if len(untrusted) < 4:
        raise ConnectionFault(Code.FRAME_ERROR, "method frame without a method")
    number: int = _long.unpack_from(untrusted)[0]
    return number


def decode_method(untrusted: bytes) -> Method:
    """A method with its arguments; the library reads past the end of a short payload, so lengths are checked after it."""
    number = method_id(untrusted)
    kind = spec.methods.get(number)
    if kind is None:
        raise ConnectionFault(Code.COMMAND_INVALID, f"unknown method {number >> 16}.{number & 0xFFFF}")
    method: Method = kind.__new__(kind)  # some of the library's methods want arguments to be made; all are read below
    try:
        method.decode(untrusted, 4)
        _check_length(method, untrusted)
    except (
        struct.error,
        IndexError,
        ValueError,
        OverflowError,
        OSError,
        RecursionError,
        ArithmeticError,
        TypeError,
    ) as e:
        raise ConnectionFault(Code.SYNTAX_ERROR, f"{method.NAME}: malformed arguments ({type(e).__name__})") from None
    except (exceptions.AMQPError, AssertionError) as e:
        raise ConnectionFault(Code.SYNTAX_ERROR, f"{method.NAME}: malformed arguments ({type(e).__name__})") from None
    return method


def _check_length(method: Method, untrusted: bytes) -> None:
    for name, value in vars(method).items():
        if isinstance(value, bytes) and not isinstance(method, spec.Connection.StartOk | spec.Connection.SecureOk):
            raise ValueError(f"{name} is not UTF-8")
    if isinstance(method, spec.Connection.StartOk):
        return  # two tables and a free form in one method: its strings are only compared with what we expect
    table = getattr(method, "arguments", None)
    if table is not None:
        method.arguments = None
    length = 4 + sum(map(len, method.encode()))
    if table is not None:
        method.arguments = table
        length += int(_long.unpack_from(untrusted, length - 4)[0])
    if length != len(untrusted):
        raise ValueError("length")


def encode_method(channel: int, method: Method) -> bytes:
    """A whole method frame."""
    payload = _long.pack(method.INDEX) + b"".join(method.encode())
    return _frame.pack(METHOD, channel, len(payload)) + payload + _END


def parse_publish(untrusted: bytes) -> tuple[str, str, bool, bool]:
    """Exchange, routing key, mandatory, immediate."""
    try:
        middle = 7 + untrusted[6]
        end = middle + 1 + untrusted[middle]
        flags = untrusted[end]
        if end + 1 != len(untrusted):
            raise ConnectionFault(Code.SYNTAX_ERROR, "basic.publish: malformed arguments")
        exchange, key = untrusted[7:middle].decode(), untrusted[middle + 1 : end].decode()
    except (IndexError, UnicodeDecodeError):
        raise ConnectionFault(Code.SYNTAX_ERROR, "basic.publish: malformed arguments") from None
    return exchange, key, bool(flags & 1), bool(flags & 2)


def parse_ack(untrusted: bytes) -> tuple[int, bool]:
    """Delivery tag, multiple."""
    if len(untrusted) != _ack.size:
        raise ConnectionFault(Code.SYNTAX_ERROR, "basic.ack: malformed arguments")
    _, tag, multiple = _ack.unpack(untrusted)
    return tag, bool(multiple & 1)


def parse_content_header(untrusted: bytes) -> tuple[int, bytes]:
    """Body size, and the properties as they are."""
    if len(untrusted) < 14:
        raise ConnectionFault(Code.FRAME_ERROR, "content header too short")
    kind, _, size = _content.unpack_from(untrusted)
    if kind != spec.Basic.INDEX:
        raise ConnectionFault(Code.FRAME_ERROR, f"class {kind} carries no content")
    return size, untrusted[12:]


@lru_cache(maxsize=1024)  # the same tags and names come again with every message
def short(text: str) -> bytes:
    """A short string."""
    encoded = text.encode()
    if len(encoded) > 255:
        raise ConnectionFault(Code.SYNTAX_ERROR, "a name longer than 255 bytes")
    return bytes((len(encoded),)) + encoded


def deliver(channel: int, tag: bytes, number: int, redelivered: bool, address: bytes) -> bytes:
    """A basic.deliver frame; `tag` and `address` (exchange, routing key) are short strings already."""
    size = 13 + len(tag) + len(address)
    head = _method_frame.pack(METHOD, channel, size, _DELIVER)
    return b"".join((head, tag, _deliver_tail.pack(number, redelivered), address, _END))


def content(channel: int, header: bytes, body: bytes, frame_max: int) -> list[bytes]:
    """The content header's frame and as many body frames as it takes."""
    size = len(body)
    head = _content_frame.pack(HEADER, channel, 12 + len(header), _BASIC, 0, size)
    if 0 < size <= frame_max - OVERHEAD:
        return [head, header, _END, _frame.pack(BODY, channel, size), body, _END]
    parts = [head, header, _END]
    room = frame_max - OVERHEAD
    for at in range(0, size, room):
        piece = body[at : at + room]
        parts += (_frame.pack(BODY, channel, len(piece)), piece, _END)
    return parts


def confirm(channel: int, number: int, *, multiple: bool = False) -> bytes:
    """A basic.ack from us to a publisher."""
    return _settle_frame.pack(METHOD, channel, 13, ACK, number, multiple, 0xCE)


def refuse(channel: int, number: int) -> bytes:
    """A basic.nack from us to a publisher."""
    return _settle_frame.pack(METHOD, channel, 13, spec.Basic.Nack.INDEX, number, 0, 0xCE)


def table(values: dict[str, Any]) -> bytes:
    """A field table."""
    pieces: list[bytes] = []
    data.encode_table(pieces, values)
    return b"".join(pieces)


def field(value: Any) -> bytes:
    """One value of a field table, with its type."""
    pieces: list[bytes] = []
    data.encode_value(pieces, value)
    return b"".join(pieces)
