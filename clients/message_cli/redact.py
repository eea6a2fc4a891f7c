# SPDX-License-Identifier: Apache-2.0
"""What may be shown of a message: its method, the name of its fault, and, when asked for, its fields without secrets. Pure.

A field is secret when its name holds one of `SECRET_WORDS`, whatever its value is, and so is the password of every URL. A body
that is no message of ours is never shown: nobody knows what is in it.
"""

import re
from typing import Any

import msgspec

from xenops import wire
from xenops.bus.port import JSON, Message
from xenops.errors import Fault

SECRET_WORDS = ("password", "passwd", "passphrase", "secret", "token", "credential", "cookie", "auth", "private", "key")
HIDDEN = "(hidden)"
_URL_PASSWORD = re.compile(r"(?P<before>[a-z][a-z0-9+.-]*://[^/\s:@]*):[^/\s]*@", re.IGNORECASE)
_LONGEST, _DEEPEST = 200, 16


def method_of(message: Message) -> str:
    """The method that a request asks for, or nothing if it is no request of ours."""
    try:
        return wire.decode_call(message.body, message.content_type)[0][:_LONGEST]
    except Fault:
        return ""


def fault_of(message: Message) -> str:
    """The name of the fault in a reply, or nothing."""
    found = _decoded(message)
    if not isinstance(found, dict):
        return ""
    fault = found.get("fault", found.get("error"))
    if isinstance(fault, dict) and isinstance(fault.get("data"), dict):
        fault = fault["data"]
    return str(fault.get("name", "error"))[:_LONGEST] if isinstance(fault, dict) else ""


def body_of(message: Message) -> Any:
    """The body without its secrets; None for one that cannot be decoded."""
    return redacted(_decoded(message))


def redacted(value: Any, depth: int = 0) -> Any:
    """The same without secrets, cut where it is long or deep; bytes are only counted."""
    if depth > _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {
            redacted(str(key)): HIDDEN if _secret(str(key)) else redacted(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [redacted(item, depth + 1) for item in value]
    if isinstance(value, str):
        text = _URL_PASSWORD.sub(rf"\g<before>:{HIDDEN}@", value)
        return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    if isinstance(value, msgspec.msgpack.Ext):
        return f"(extension {value.code}, {len(bytes(value.data))} bytes)"
    return f"({len(value)} bytes)" if isinstance(value, bytes) else value


def _secret(name: str) -> bool:
    return any(word in name.lower() for word in SECRET_WORDS)


def _decoded(message: Message) -> Any:
    codec = msgspec.json if message.content_type == JSON else msgspec.msgpack
    try:
        return codec.decode(message.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
        return None
