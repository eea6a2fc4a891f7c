# SPDX-License-Identifier: Apache-2.0
"""The command `tail`: messages as they pass, and messages that wait, without what is secret in them."""

import sys
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from fnmatch import fnmatchcase
from typing import Any

from message_cli import redact, render
from message_cli.exits import Complaint, Exit
from message_cli.session import Session
from xenops.bus.port import Message
from xenops.bus.watch.firehose import Passed, firehose
from xenops.bus.watch.letters import Refused

_SILENT = "message-cli: this broker traces nothing: on RabbitMQ its operator turns that on with `rabbitmqctl trace_on`; waiting"
_WATCHING = "message-cli: watching; Ctrl-C ends it"


async def tail(session: Session) -> list[dict[str, Any]] | None:
    """What waits in a queue, oldest first; with --follow what passes, line by line, until interrupted or --count lines."""
    if session.args.follow:
        await _follow(session)
        return None
    if not session.args.pattern:
        raise Complaint("which queue? Name it, or --follow what passes", Exit.USAGE)
    rows: list[dict[str, Any]] = []
    async with session.letterbox() as box:
        while len(rows) < session.args.count and (letter := await box.take(session.args.pattern)) is not None:
            rows.append({"place": len(rows), **described(letter.message, bodies=session.args.bodies)})
    return rows


async def _follow(session: Session) -> None:
    args, seen = session.args, 0
    async with aclosing(watched(session, bodies=args.bodies)) as rows:
        async for row in rows:
            if not concerns(row, args.pattern):
                continue
            print(render.compact(row) if args.json else render.passed(row), flush=True)
            seen += 1
            if seen == args.count:
                return


async def watched(session: Session, *, bodies: bool) -> AsyncGenerator[dict[str, Any], None]:
    """A line about everything that passes; that it has begun, or that the broker tells nothing, is said on standard error."""
    try:
        async with firehose(session.url, name="message-cli") as stream:
            await stream.begin()
            began = time.monotonic()
            async with aclosing(stream.passing(_tell)) as passing:
                async for found in passing:
                    yield line(found, bodies=bodies, seen_s=time.monotonic() - began)
    except Refused as refusal:
        raise Complaint(f"{refusal}; only an administrator may watch") from None


def _tell(traces: bool) -> None:
    print(_WATCHING if traces else _SILENT, file=sys.stderr, flush=True)


def concerns(row: dict[str, Any], pattern: str) -> bool:
    """Whether its exchange, its queue or one of its routing keys fits a pattern with `*` and `?`; without one, all do."""
    return not pattern or any(fnmatchcase(name, pattern) for name in (row["where"], *row["to"]))


def line(found: Passed, *, bodies: bool, seen_s: float) -> dict[str, Any]:
    """One line about a message that passed, `seen_s` after the watch began."""
    return {
        "seen_s": round(seen_s, 6),
        "way": found.way,
        "where": found.where,
        "to": list(found.to),
        "connection": found.connection,
        "redelivered": found.redelivered,
        "correlation_id": str(found.message.correlation_id or ""),
        "reply_to": str(found.message.reply_to or ""),
        **described(found.message, bodies=bodies),
    }


def described(message: Message, *, bodies: bool) -> dict[str, Any]:
    """What may be shown of a message."""
    row = {
        "id": message.message_id or "",
        "method": redact.method_of(message),
        "fault": redact.fault_of(message),
        "bytes": len(message.body),
    }
    return {**row, "body": redact.body_of(message)} if bodies else row
