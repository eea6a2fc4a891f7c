# SPDX-License-Identifier: Apache-2.0
"""The person at the terminal who answers for `serve`: one request is shown at a time, and what is typed is its answer.

    "text", 12, {"id": "x"}, null        any JSON in one line is the result
    !DoesNotExist {"kind": "VM", "key": "x"}   the fault of that name, with its fields

What is no request of ours is only counted, since nobody knows what secrets are in it; its answer is lines of text up to a
single dot. What cannot be read as an answer is asked for again. Who leaves (Ctrl-C, Ctrl-D) gives back what is unanswered.
"""

import asyncio
import os
import sys
import threading
import time
from typing import Any

import msgspec

from message_cli import redact, render
from xenops import errors, wire
from xenops.bus.port import JSON, Delivery, Message
from xenops.errors import Fault, InternalError

_HELP = 'the result as JSON, or a fault: !DoesNotExist {"kind": "VM", "key": "x"}; Ctrl-D ends, and gives back what is unanswered'
_PROMPT = "> "
_CHUNK = 1 << 12


class Unreadable(Exception):
    """What was typed is no answer."""


class Lines:
    """Lines from standard input, be it a terminal, a pipe or a file, without anybody having to wait for a line to leave."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[bytes | None] = asyncio.Queue()
        # Not the loop's own threads: their end is waited for, and a read from a terminal has none.
        threading.Thread(target=self._read, name="standard input", daemon=True).start()

    async def next(self) -> bytes | None:
        """The next one without its end; None when there are no more, each time."""
        line = await self._queue.get()
        if line is None:
            self._queue.put_nowait(None)
        return line

    def _read(self) -> None:
        rest = b""
        try:
            while chunk := self._chunk():
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    self._loop.call_soon_threadsafe(self._queue.put_nowait, line)
            for last in (rest, None) if rest else (None,):
                self._loop.call_soon_threadsafe(self._queue.put_nowait, last)
        except RuntimeError:
            return  # the loop has ended, and nobody wants more

    def _chunk(self) -> bytes:
        try:
            return os.read(self._descriptor, _CHUNK)
        except OSError:
            return b""  # a terminal that was closed has no more lines, as one that ended


class Person:
    """See the module; `gone` is set once there is nothing more to read from them."""

    def __init__(self, lines: Lines) -> None:
        self.gone = asyncio.Event()
        self._lines = lines
        self._turn = asyncio.Lock()
        self._waiting = 0

    async def answer(self, delivery: Delivery) -> Message:
        """What they say to this request."""
        request = delivery.message
        self._waiting += 1
        try:
            async with self._turn:
                body = await (self._asked(request) if redact.method_of(request) else self._passed(request))
        finally:
            self._waiting -= 1
        return Message(body, request.content_type, request.correlation_id)

    async def _asked(self, request: Message) -> bytes:
        method, _, id = wire.decode_call(request.body, request.content_type)
        shown = redact.body_of(request)
        self._say(f"-- {render.clean(method)}{self._about(request)}\n{render.compact(shown.get('params', {}))}")
        while True:
            self._say(_PROMPT if sys.stdout.isatty() else "", end="")
            untrusted = await self._line()
            try:
                reply = answered(untrusted.decode())
            except (Unreadable, UnicodeDecodeError) as why:
                self._say(f"that is no answer: {why}\n   {_HELP}")
                continue
            return wire.as_json(reply, id) if request.content_type == JSON else reply

    async def _passed(self, request: Message) -> bytes:
        self._say(f"-- {len(request.body)} bytes that are no request of ours{self._about(request)}")
        self._say("reply, ending with a line of a single dot:")
        lines: list[bytes] = []
        while (line := await self._line()) != b".":
            lines.append(line + b"\n")
        return b"".join(lines)

    async def _line(self) -> bytes:
        line = await self._lines.next()
        if line is None:
            self.gone.set()
            await asyncio.get_running_loop().create_future()  # until we are stopped, and the request given back
        return line or b""

    def _about(self, request: Message) -> str:
        """What else helps to answer it."""
        facts = [f"id {render.clean(request.message_id)}"] if request.message_id else []
        deadline = request.headers.get("deadline")
        if isinstance(deadline, int):
            facts.append(f"in {deadline / 1000 - time.time():.0f} s nobody waits for it any more")
        if not request.reply_to:
            facts.append("nobody waits for an answer")
        if request.redelivered:
            facts.append("delivered before")
        if self._waiting > 1:
            facts.append(f"{self._waiting - 1} more wait")
        return f"  ({', '.join(facts)})" if facts else ""

    def _say(self, text: str, end: str = "\n") -> None:
        print(text, end=end, flush=True)


def answered(typed: str) -> bytes:
    """The reply in MessagePack that was typed. Raises `Unreadable` with what is wrong with it."""
    typed = typed.strip()
    if typed.startswith("!"):
        return wire.encode_fault(_fault(typed[1:]))
    return wire.encode_result(_json(typed))


def _fault(typed: str) -> Fault:
    name, _, fields = typed.partition(" ")
    if name not in Fault.known:
        raise Unreadable(f"there is no fault {name!r}, look at docs/api/faults.md")
    fault = errors.decode({"name": name, "fields": _json(fields) if fields.strip() else {}})
    if isinstance(fault, InternalError) and name != InternalError.__name__:
        raise Unreadable(fault.reason)
    return fault


def _json(typed: str) -> Any:
    try:
        return msgspec.json.decode(typed)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Unreadable(f"it is not JSON ({error})") from None
