# SPDX-License-Identifier: Apache-2.0
"""Another client's message properties, made safe to hand on.

Any client may fill them with anything: text that is no UTF-8, times beyond the calendar, numbers that are none. The
reply's address and its correlation id are kept whatever the rest is, so that the caller hears what was wrong.
"""

import struct
from typing import Any

from pika.spec import BasicProperties

from xenops.bus.port import UNREADABLE, Message

_CONTENT_TYPE, _CONTENT_ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13


def message(untrusted: BasicProperties, body: bytes, routing_key: str = "", *, redelivered: bool = False) -> Message:
    """The message as the port has it; ids that are no text get an escaped form, the correlation id stays as it is."""
    return Message(
        body,
        _text(untrusted.content_type) or "",
        untrusted.correlation_id,
        untrusted.reply_to,
        _text(untrusted.message_id),
        untrusted.headers or {},
        routing_key,
        redelivered,
    )


def salvaged_properties(untrusted: bytes) -> BasicProperties:
    """What can be read of properties whose headers cannot."""
    try:
        (flags,) = struct.unpack_from(">H", untrusted)
        offset = 2
        for flag in (_CONTENT_TYPE, _CONTENT_ENCODING):
            if flags & flag:
                offset += 1 + untrusted[offset]
        if not flags & _HEADERS:
            return BasicProperties(headers={UNREADABLE: True})
        (length,) = struct.unpack_from(">I", untrusted, offset)
        rest = struct.pack(">H", flags & ~_HEADERS) + untrusted[2:offset] + untrusted[offset + 4 + length :]
        properties = BasicProperties()
        properties.decode(rest)
        properties.headers = {UNREADABLE: True}
        return properties
    except (struct.error, IndexError, ValueError, OverflowError):
        return BasicProperties(headers={UNREADABLE: True})


def _text(untrusted: Any) -> str | None:
    if isinstance(untrusted, bytes):
        return untrusted.decode("utf-8", "backslashreplace")
    return untrusted if isinstance(untrusted, str) else None


def call_number(properties: BasicProperties) -> int:
    """The number of the call that a reply is for; 0, which is no call's, if it says none of ours."""
    text = properties.correlation_id
    return int(text) if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) < 19 else 0
