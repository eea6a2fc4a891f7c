# SPDX-License-Identifier: Apache-2.0
"""QEMU's monitor protocol as an object that is fed bytes: a greeting, then replies and events, one JSON object a line.

    untrusted bytes ──feed──> Greeting, Reply, Refused, Event        command(...) ──> bytes

QEMU works on what its guest does, so what it says is as untrusted as the guest. Whatever is no conversation of this kind
is `NoMonitor`, after which nothing more is understood.
"""

from dataclasses import dataclass, field
from typing import Any

import msgspec

LINE_LIMIT = 4 << 20  # the longest that QEMU has to say, query-qmp-schema, is a twentieth of this


class NoMonitor(Exception):
    """The other side does not speak this protocol, or does no longer."""


@dataclass(frozen=True)
class Greeting:
    """The first thing that is said."""

    version: tuple[int, int, int]


@dataclass(frozen=True)
class Reply:
    """A command was carried out."""

    id: int
    value: Any


@dataclass(frozen=True)
class Refused:
    """A command was not carried out; `kind` is QEMU's class of errors."""

    id: int
    kind: str
    reason: str


@dataclass(frozen=True)
class Event:
    """Something happened by itself."""

    name: str
    data: dict[str, Any] = field(default_factory=dict)


Message = Greeting | Reply | Refused | Event


class _Micro(msgspec.Struct):
    major: int
    minor: int
    micro: int


class _Version(msgspec.Struct):
    qemu: _Micro


class _Hello(msgspec.Struct):
    version: _Version


class _Error(msgspec.Struct):
    kind: str = msgspec.field(name="class")
    desc: str


class _Line(msgspec.Struct):
    """All that a line can be; which of it is there says what it is."""

    hello: _Hello | None = msgspec.field(name="QMP", default=None)
    id: int | None = None
    value: Any = msgspec.field(name="return", default=msgspec.UNSET)
    error: _Error | None = None
    event: str | None = None
    data: dict[str, Any] = msgspec.field(default_factory=dict)


_DECODER = msgspec.json.Decoder(_Line)


def command(id: int, name: str, arguments: dict[str, Any]) -> bytes:
    """What is said to have that done; the answer carries the id."""
    return msgspec.json.encode({"execute": name, "arguments": arguments, "id": id}) + b"\n"


class Conversation:
    """What the other side says."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._greeted = False
        self._broken = ""

    def feed(self, untrusted: bytes) -> list[Message]:
        """What became whole with these bytes. Raises `NoMonitor`, from then on always."""
        messages: list[Message] = []
        lines = (self._rest + untrusted).split(b"\n")
        self._rest = lines.pop()
        try:
            if self._broken:
                raise NoMonitor(self._broken)
            for line in lines:
                if line.strip():
                    messages.append(self._read(line))
            if len(self._rest) > LINE_LIMIT:
                raise NoMonitor(f"a line of more than {LINE_LIMIT} bytes")
        except NoMonitor as problem:
            self._broken = str(problem)
            self._rest.clear()
            raise
        return messages

    def _read(self, line: bytes | bytearray) -> Message:
        try:
            said = _DECODER.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise NoMonitor(f"{bytes(line[:80])!r}: {error}") from None
        if said.hello is not None and not self._greeted:
            self._greeted = True
            version = said.hello.version.qemu
            return Greeting((version.major, version.minor, version.micro))
        if not self._greeted:
            raise NoMonitor(f"{bytes(line[:80])!r} in place of a greeting")
        if said.event is not None:
            return Event(said.event, said.data)
        # Without an id it is the answer to what could not even be read, which no command of ours is.
        if said.id is not None and said.error is not None:
            return Refused(said.id, said.error.kind, said.error.desc)
        if said.id is not None and said.value is not msgspec.UNSET:
            return Reply(said.id, said.value)
        raise NoMonitor(f"{bytes(line[:80])!r} is neither an answer nor an event")
