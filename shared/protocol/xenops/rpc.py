# SPDX-License-Identifier: Apache-2.0
"""The answering end of a call, made from the declaration: `Dispatcher`. `stub`, for who asks, is `xenops.asking`'s.

A dispatcher never lets an exception out: what is no declared fault becomes an `InternalError` whose reference stands
in the log beside the traceback.
"""

import asyncio
import hashlib
import inspect
import logging
import secrets
import time
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Protocol

import msgspec
from msgspec import UNSET

from xenops import wire
from xenops.asking import REPLY_TIMEOUT_S, request, stub, waiting_s
from xenops.bus.port import JSON, MAX_BODY, MSGPACK, UNREADABLE, Delivery, Message
from xenops.errors import (
    AnswerTooLong,
    BadRequest,
    Busy,
    DeadlineExceeded,
    Fault,
    InternalError,
    RequestFault,
    UnknownMethod,
)
from xenops.idl import Interface, Method, methods
from xenops.service.log import work

__all__ = ["REPLY_TIMEOUT_S", "Calling", "Dispatcher", "Outcomes", "calling", "outcome", "request", "stub", "waiting_s"]

log = logging.getLogger(__name__)
_DIGEST_SIZE = 16
# Requests that wait for something to happen are off the bus, whose limits they no longer meet: whoever asks, goes away and
# asks again must not pile them up here.
WAITING_MAX = 4096
_RETRY_AFTER_MS = 1000


@dataclass(frozen=True, slots=True)
class Calling:
    """What the envelope of the request under way said beside its params."""

    method: str = ""
    message_id: str | None = None
    debug_info: str = ""
    deadline: int | None = None  # Unix milliseconds: nothing starts after it
    traceparent: str | None = None
    asked: bytes = b""  # the digest of a request whose outcome is kept


_NOBODY = Calling()
calling: ContextVar[Calling] = ContextVar("calling", default=_NOBODY)


def outcome(result: Any) -> tuple[str, bytes] | None:
    """The message id of the request under way, and what is to be kept when `result` is the answer to it.

    For a service that writes this down together with the change itself; `Outcomes.remember` is asked for it all the same.
    """
    envelope = calling.get()
    if envelope.message_id is None or not envelope.asked:
        return None
    return envelope.message_id, envelope.asked + wire.encode_result(result)


class Outcomes(Protocol):
    """Remembers what became of requests, so that a repeated message id gets the first outcome.

    What is kept is for the dispatcher to read: what was asked, as a digest, and the reply.
    """

    def recall(self, message_id: str) -> bytes | None:
        """What was kept for the first request of that id, if it is still remembered."""

    async def remember(self, message_id: str, reply: bytes) -> None:
        """Keep an outcome; returns once it is durable."""


class Dispatcher:
    """Answers the requests of some interfaces; `answer` is what `Bus.serve` wants."""

    def __init__(
        self,
        implementations: Sequence[tuple[type[Interface], object]],
        *,
        outcomes: Outcomes | None = None,
        observe: Callable[[str, str, float], None] = lambda method, outcome, seconds: None,
    ) -> None:
        self._methods: dict[str, tuple[Method, Callable[..., Coroutine[Any, Any, Any]]]] = {}
        for interface, implementation in implementations:
            for wire_name, method in methods(interface).items():
                bound = getattr(implementation, method.attribute, None)
                if not inspect.iscoroutinefunction(bound) or hasattr(bound, "__rpc__"):  # missing, or only declared
                    raise TypeError(f"{type(implementation).__name__} does not implement {wire_name}")
                self._methods[wire_name] = (method, bound)
        self._outcomes = outcomes
        self._observe = observe
        self._under_way: dict[str, tuple[bytes, asyncio.Future[bytes]]] = {}
        self._waiting = 0

    async def answer(self, delivery: Delivery) -> Message | None:
        """The reply to one request, in the encoding it came in; none to a JSON-RPC notification."""
        untrusted = delivery.message
        encoding = JSON if untrusted.content_type == JSON else MSGPACK
        began = time.perf_counter()
        name, request_id = "unknown", None
        try:
            name, raw, request_id = wire.decode_call(untrusted.body, untrusted.content_type)
            method, bound = self._find(name)
            body = _spoken(await self._once(method, bound, raw, delivery), encoding, request_id)
            outcome = "ok"
        except Fault as fault:
            body, outcome = _spoken(wire.encode_fault(fault), encoding, request_id), fault.name
        except Exception as error:  # noqa: BLE001 (the edge: the caller gets a reference, the log the traceback)
            internal = _internal(name, error)
            body, outcome = _spoken(wire.encode_fault(internal), encoding, request_id), internal.name
        label = name if name in self._methods else "unknown"  # the name is the caller's text: no metric of its own
        self._observe(label, outcome, time.perf_counter() - began)
        if encoding == JSON and request_id is UNSET:
            return None
        return Message(body, content_type=encoding, correlation_id=untrusted.correlation_id)

    def _find(self, name: str) -> tuple[Method, Callable[..., Coroutine[Any, Any, Any]]]:
        found = self._methods.get(name)
        if found is None:
            near = get_close_matches(name[:80], self._methods, 1)  # it takes a second for a name of megabytes
            raise UnknownMethod(name[:80], f"did you mean {near[0]}?" if near else "docs/api lists them all")
        return found

    async def _once(
        self,
        method: Method,
        bound: Callable[..., Coroutine[Any, Any, Any]],
        raw: msgspec.Raw,
        delivery: Delivery,
    ) -> bytes:
        """The outcome of the first request with this message id, as MessagePack; a repetition waits for it or finds it."""
        message_id = delivery.message.message_id
        if method.reads or not message_id:
            return await self._perform(method, bound, raw, delivery)
        asked = _digest(method, raw)
        if message_id in self._under_way:
            before, answer = self._under_way[message_id]
            _same(before, asked)
            return await asyncio.shield(answer)
        if self._outcomes is not None and (known := self._outcomes.recall(message_id)) is not None:
            _same(known[:_DIGEST_SIZE], asked)
            return known[_DIGEST_SIZE:]
        first: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._under_way[message_id] = asked, first
        try:
            body = await self._perform(method, bound, raw, delivery, asked)
            await self._remember(message_id, asked + body)
            first.set_result(body)
            return body
        except BaseException as error:
            first.set_exception(error if isinstance(error, Exception) else InternalError("-", "the service stopped"))
            first.exception()  # seen: nobody else may be waiting
            if isinstance(error, Fault) and not isinstance(error, RequestFault):  # a request at fault did nothing
                await self._remember(message_id, asked + wire.encode_fault(error))
            raise
        finally:
            del self._under_way[message_id]

    async def _remember(self, message_id: str, outcome: bytes) -> None:
        if self._outcomes is not None:
            await self._outcomes.remember(message_id, outcome)

    async def _perform(
        self,
        method: Method,
        bound: Callable[..., Coroutine[Any, Any, Any]],
        raw: msgspec.Raw,
        delivery: Delivery,
        asked: bytes = b"",
    ) -> bytes:
        message = delivery.message
        envelope, newer = _envelope(method, message, asked)
        params = wire.decode_params(raw, method.params, message.content_type, forgiving=newer)
        if envelope.deadline is not None and time.time() * 1000 > envelope.deadline:
            raise DeadlineExceeded(envelope.deadline)
        calling.set(envelope)
        if envelope.debug_info:
            work.set(envelope.debug_info)
        doing = bound(**{f: getattr(params, f) for f in params.__struct_fields__})
        return wire.encode_result(await (self._wait(method, delivery, doing) if method.waits else doing))

    async def _wait(self, method: Method, delivery: Delivery, doing: Coroutine[Any, Any, Any]) -> Any:
        """What may take its time: the bus need not hold it, and only so many are held here."""
        if self._waiting >= WAITING_MAX:
            doing.close()
            raise Busy(method.wire, _RETRY_AFTER_MS)
        delivery.accept()
        self._waiting += 1
        try:
            return await doing
        finally:
            self._waiting -= 1


def _spoken(reply: bytes, encoding: str, request_id: Any) -> bytes:
    """A reply as its caller reads it. Raises `AnswerTooLong`: no broker would carry it."""
    body = wire.as_json(reply, request_id) if encoding == JSON else reply
    if len(body) > MAX_BODY:
        raise AnswerTooLong(len(body), MAX_BODY)
    return body


def _digest(method: Method, raw: msgspec.Raw) -> bytes:
    """What tells one request from another that has the same message id."""
    return hashlib.blake2b(method.wire.encode() + b"\0" + bytes(raw), digest_size=_DIGEST_SIZE).digest()


def _same(before: bytes, asked: bytes) -> None:
    """An id that is used again for something else: its outcome would be taken for that of the other request."""
    if before != asked:
        raise BadRequest("message_id", "was used for another request; give each request an id of its own")


def _envelope(method: Method, message: Message, asked: bytes) -> tuple[Calling, bool]:
    """What the untrusted headers say, and whether the caller was written for a newer interface than ours."""
    headers = {key: value for key, value in message.headers.items() if value is not None}  # null is absent
    deadline, debug_info = headers.get("deadline"), headers.get("debug_info", "")
    traceparent, version = headers.get("traceparent"), headers.get("version", wire.VERSION)
    if UNREADABLE in headers:
        raise BadRequest("headers", "hold a value that cannot be decoded")
    if deadline is not None and (not isinstance(deadline, int) or isinstance(deadline, bool)):
        raise BadRequest("headers.deadline", "expected Unix milliseconds as an int")
    for key, value in (("debug_info", debug_info), ("version", version), ("traceparent", traceparent or "")):
        if not isinstance(value, str) or len(value) > 512:
            raise BadRequest(f"headers.{key}", "expected a string of at most 512 characters")
    if deadline is not None:
        deadline = int(deadline)  # the AMQP library has an int of its own
    return Calling(method.wire, message.message_id, debug_info, deadline, traceparent, asked), _newer(version)


def _newer(version: str) -> bool:
    parts = version.split(".")
    if not all(part.isascii() and part.isdecimal() for part in parts):
        raise BadRequest("headers.version", f"expected a version such as {wire.VERSION}")
    ours = tuple(map(int, wire.VERSION.split(".")))
    return tuple(map(int, parts[: len(ours)])) > ours  # 1.0.1 has nothing that 1.0 had not


def _internal(name: str, error: BaseException) -> InternalError:
    reference = secrets.token_hex(4)
    log.error("%s failed, reference %s", name, reference, exc_info=error)
    return InternalError(reference, type(error).__name__)
