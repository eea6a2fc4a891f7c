# SPDX-License-Identifier: Apache-2.0
"""Misfortunes for what two xenopsds say to each other: a message or its answer is lost, late, doubled, or no message at
all, or one of them dies just then; and the same for the stream.
"""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from enum import Enum
from typing import Any

from tests.xenopsd.migration.pair import Host
from xenops import wire
from xenops.bus.memory import MemoryBus
from xenops.bus.port import Message
from xenops.errors import ConnectionLost, TimedOut
from xenopsd.migration import line as lines


class Harm(Enum):
    """What befalls a message."""

    CUT = "cut"
    LATE = "late"  # the sender has given it up by then, and said something else
    TWICE = "twice"
    GARBAGE = "garbage"
    SENDER_DIES = "sender dies"
    RECEIVER_DIES = "receiver dies"


class Misfortunes:
    """One harm to the n-th message of a method, on its way or as its answer comes back; and words that are never said."""

    def __init__(self, hosts: tuple[Host, Host]) -> None:
        self._hosts = {host.queue: host for host in hosts}
        self.met = asyncio.Event()
        self._method, self._answer, self._harm, self._nth = "", False, Harm.CUT, 0
        self.unsaid: set[str] = set()
        self._late: list[asyncio.Task[Any]] = []
        self._let_go = asyncio.Event()
        for host in hosts:
            host.meddler = self
            self.between(host, host._ours)

    def befall(self, method: str, harm: Harm, *, answer: bool = False) -> None:
        """The next message of this method, or its answer."""
        self._method, self._harm, self._answer, self._nth = method, harm, answer, 1

    async def over(self) -> None:
        """What was late arrives now; nothing more happens."""
        self.unsaid.clear()
        self._nth = 0
        self._let_go.set()
        await asyncio.gather(*self._late, return_exceptions=True)

    def between(self, host: Host, bus: MemoryBus) -> None:
        """See `Meddler`."""
        plainly = bus.call

        async def call(queue: str, request: Message, *, timeout_s: float) -> Message:
            method = wire.decode_call(request.body, request.content_type)[0]
            if method in self.unsaid:
                await asyncio.sleep(0.05)
                raise ConnectionLost("nowhere")
            if method != self._method or not self._nth:
                return await plainly(queue, request, timeout_s=timeout_s)
            self._nth -= 1
            self.met.set()
            harm = self._on_its_answer if self._answer else self._on_its_way
            return await harm(host, queue, lambda message: plainly(queue, message, timeout_s=timeout_s), request)

        bus.call = call  # type: ignore[method-assign]

    async def _on_its_way(self, sender: Host, queue: str, send: Callable[[Message], Any], request: Message) -> Message:
        match self._harm:
            case Harm.CUT:
                raise ConnectionLost("nowhere")
            case Harm.LATE:
                self._late.append(asyncio.create_task(self._send_late(send, request)))
                raise TimedOut(queue, 0.0)
            case Harm.TWICE:
                both = await asyncio.gather(send(replace(request, message_id="twice")), send(request))
                return both[1]  # type: ignore[no-any-return]
            case Harm.GARBAGE:
                await asyncio.wait_for(send(replace(request, body=b"\xc1" + request.body)), 5.0)
                raise ConnectionLost("nowhere")
            case Harm.SENDER_DIES:
                await sender.crash()
                await asyncio.Event().wait()
            case Harm.RECEIVER_DIES:
                await self._hosts[queue].crash()
        return await send(request)  # type: ignore[no-any-return]

    async def _on_its_answer(
        self, sender: Host, queue: str, send: Callable[[Message], Any], request: Message
    ) -> Message:
        reply: Message = await send(request)
        match self._harm:
            case Harm.GARBAGE:
                return replace(reply, body=b"\xc1\xc1")
            case Harm.TWICE:
                return await send(replace(request, message_id="twice"))  # type: ignore[no-any-return]
            case Harm.SENDER_DIES:
                await sender.crash()
                await asyncio.Event().wait()
            case Harm.RECEIVER_DIES:
                await self._hosts[queue].crash()
        raise ConnectionLost("nowhere")

    async def _send_late(self, send: Callable[[Message], Any], request: Message) -> None:
        await self._let_go.wait()
        await send(request)


class Stream:
    """Misfortunes for the n-th write of a memory stream; the last one is told by its size."""

    def __init__(self, monkeypatch: Any) -> None:
        self.met = asyncio.Event()
        self._harm: Harm | None = None
        self._when = ""
        self._hosts: tuple[Host, Host]
        self._seen = 0
        plainly = lines.OutgoingLine._write
        meddling = self

        async def write(line: lines.OutgoingLine, frames: bytes) -> None:
            meddling._seen += 1
            if meddling._harm is None or not meddling._is_it(frames):
                await plainly(line, frames)
                return
            meddling.met.set()
            harm, meddling._harm = meddling._harm, None
            await meddling._befall(harm, line, frames, plainly)

        monkeypatch.setattr(lines.OutgoingLine, "_write", write)

    def befall(self, when: str, harm: Harm, hosts: tuple[Host, Host]) -> None:
        """At the `first` write, in the `middle`, or at the `last`."""
        self._when, self._harm, self._hosts, self._seen = when, harm, hosts, 0

    def _is_it(self, frames: bytes) -> bool:
        last = len(frames) < 100
        return {"first": self._seen == 1, "middle": self._seen == 3, "last": last}[self._when]

    async def _befall(self, harm: Harm, line: lines.OutgoingLine, frames: bytes, plainly: Any) -> None:
        match harm:
            case Harm.CUT:
                line._writer.write(frames[: len(frames) // 2])
                line._writer.transport.abort()
                await plainly(line, b"")
            case Harm.LATE:  # nothing moves any more, and nobody says so
                return
            case Harm.TWICE:
                await plainly(line, frames + frames)
            case Harm.GARBAGE:
                await plainly(line, frames[:-1] + bytes((frames[-1] ^ 1,)))
            case Harm.SENDER_DIES:
                await self._hosts[0].crash()
                line._writer.transport.abort()
                await asyncio.Event().wait()
            case Harm.RECEIVER_DIES:
                await self._hosts[1].crash()
                line._writer.transport.abort()
                await plainly(line, frames)
