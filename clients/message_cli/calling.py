# SPDX-License-Identifier: Apache-2.0
"""Commands that take part in the conversation: ask a service, be one, measure one."""

import asyncio
import math
import sys
import time
from pathlib import Path
from typing import Any

import msgspec

from message_cli.answering.person import Lines, Person
from message_cli.answering.program import Answering, program
from message_cli.exits import Complaint, Exit
from message_cli.session import Session
from xenops import errors, wire
from xenops.bus.port import JSON, Delivery, Message
from xenops.errors import Fault
from xenops.types.record import UNSET


async def call(session: Session) -> Any:
    """One request: a method with params, or the bytes of a file as they are."""
    args = session.args
    if args.file:
        body = await asyncio.to_thread(_bytes, args.file)
        reply = await session.bus.call(args.queue, Message(body, content_type=args.type), timeout_s=args.timeout)
        return reply.body.decode("utf-8", "replace")
    if not args.method:
        raise Complaint("what is to be asked? Name a METHOD, or a --file with the whole request", Exit.USAGE)
    request = _request(args.method, args.params if args.params != "-" else await asyncio.to_thread(sys.stdin.read))
    reply = await session.bus.call(args.queue, request, timeout_s=args.timeout)
    return result_of(reply)


async def serve(session: Session) -> None:
    """Answer until interrupted, or until a person has left."""
    args = session.args
    if args.program:
        answering, ended = program(args.program, args.timeout), asyncio.Event()
        await session.bus.serve(args.queue, lambda delivery: answer(delivery, answering), prefetch=args.at_once)
    else:
        person = Person(Lines(sys.stdin.fileno()))
        ended = person.gone
        await session.bus.serve(args.queue, person.answer, prefetch=args.at_once)
    print(f"message-cli: serving {args.queue}; Ctrl-C ends it", file=sys.stderr, flush=True)
    await ended.wait()


async def bench(session: Session) -> dict[str, Any]:
    """Ask the same again and again, and tell how many replies came in a second and how long they took."""
    args = session.args
    until, taken, faults = time.monotonic() + args.seconds, list[float](), 0

    async def caller() -> None:
        nonlocal faults
        while time.monotonic() < until:
            began = time.perf_counter()
            reply = await session.bus.call(args.queue, _request(args.method, args.params), timeout_s=args.timeout)
            taken.append(time.perf_counter() - began)
            faults += "error" in msgspec.json.decode(reply.body)

    began = time.monotonic()
    async with asyncio.TaskGroup() as group:
        for _ in range(args.callers):
            group.create_task(caller())
    return measured(taken, time.monotonic() - began, faults)


def measured(taken: list[float], seconds: float, faults: int) -> dict[str, Any]:
    """The figures of a run; latencies in milliseconds."""
    ordered = sorted(taken)

    def at(share: float) -> float:
        return round(ordered[max(0, math.ceil(share * len(ordered)) - 1)] * 1000, 3) if ordered else 0.0

    rate = round(len(ordered) / seconds, 1) if seconds else 0.0
    return {"calls": len(ordered), "faults": faults, "rate": rate, "p50_ms": at(0.5), "p99_ms": at(0.99)}


async def answer(delivery: Delivery, answering: Answering) -> Message:
    """What `answering` says; if it fails, its fault in the encoding of the request."""
    request = delivery.message
    try:
        return Message(await answering(request.body), request.content_type, request.correlation_id)
    except Fault as fault:
        body = wire.encode_fault(fault)
        if request.content_type == JSON:
            try:
                body = wire.as_json(body, wire.decode_call(request.body, JSON)[2])
            except Fault:
                body = wire.as_json(body, UNSET)
        return Message(body, request.content_type, request.correlation_id)


def result_of(reply: Message) -> Any:
    """The result in a JSON-RPC reply, or its fault raised; of any other reply, its text."""
    try:
        found = msgspec.json.decode(reply.body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return reply.body.decode("utf-8", "replace")
    if isinstance(found, dict) and isinstance(found.get("error"), dict):
        error = found["error"]
        raise errors.decode({**(error.get("data") or {}), "message": error.get("message", "")})
    return found.get("result", found) if isinstance(found, dict) else found


def _request(method: str, params: str) -> Message:
    try:
        decoded = msgspec.json.decode(params)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Complaint(f"the params are not JSON: {error}", Exit.USAGE) from None
    body = msgspec.json.encode({"jsonrpc": "2.0", "id": 1, "method": method, "params": decoded})
    return Message(body, content_type=JSON, headers={"version": wire.VERSION})


def _bytes(filename: str) -> bytes:
    try:
        return sys.stdin.buffer.read() if filename == "-" else Path(filename).read_bytes()
    except OSError as error:
        raise Complaint(f"cannot read {filename}: {error.strerror}; check the path") from None
