# SPDX-License-Identifier: Apache-2.0
"""The commands `mscgen` and `latency`: watch for a while, or read what was recorded."""

import asyncio
import sys
from argparse import Namespace
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from message_cli import passing, render
from message_cli.chart import mscgen, svg, text
from message_cli.chart.conversation import Arrow, Conversation
from message_cli.chart.record import Seen, parse
from message_cli.exits import Complaint
from message_cli.session import Session

FORMATS = ("text", "mscgen", "svg")
COLUMNS = ("method", "count", "no_reply", "faults", "p50_ms", "p99_ms")
CLOCK = "times are the watcher's: from request published to reply published, as it saw them"


@dataclass(frozen=True)
class Watched:
    """What came of it; `format` is how the chart is to be drawn."""

    format: str
    clock: str
    left_out: int
    arrows: list[Arrow]
    latency: list[dict[str, object]]


async def watch(session: Session) -> Watched:
    """What passes in `--seconds`, or until so many calls were answered."""
    args, talk = session.args, _conversation(session.args)
    try:
        async with asyncio.timeout(args.seconds) as limit, aclosing(passing.watched(session, bodies=False)) as rows:
            async for row in rows:
                talk.see(msgspec.convert(row, Seen))
                if talk.answered >= args.calls:
                    break
    except TimeoutError:
        if not limit.expired():
            raise
    return _watched(args, talk)


async def read(args: Namespace) -> Watched:
    """What a file holds that `tail --follow --json` wrote."""
    return await asyncio.to_thread(_read, args)


def _read(args: Namespace) -> Watched:
    talk = _conversation(args)

    def take(lines: Iterable[bytes]) -> None:
        for seen in parse(lines):
            talk.see(seen)
            if talk.answered >= args.calls:
                return

    try:
        if args.recorded == "-":
            take(sys.stdin.buffer)
        else:
            with Path(args.recorded).open("rb") as file:
                take(file)
    except OSError as error:
        raise Complaint(f"cannot read {args.recorded}: {error.strerror}; check the path") from None
    return _watched(args, talk)


def _conversation(args: Namespace) -> Conversation:
    return Conversation(lambda queue: not args.pattern or fnmatchcase(queue, args.pattern))


def _watched(args: Namespace, talk: Conversation) -> Watched:
    return Watched(getattr(args, "format", "text"), CLOCK, talk.left_out, talk.arrows, talk.latency())


def chart(value: Watched) -> str:
    """The chart, and the summary after it."""
    if value.format == "mscgen":
        return mscgen.draw(value.arrows, summary(value))
    if value.format == "svg":
        return svg.draw(value.arrows, summary(value))
    return f"{text.draw(value.arrows)}\n\n{summary(value)}"


def summary(value: Watched) -> str:
    """A line for each method, and what the figures are."""
    lines = [render.table(value.latency, COLUMNS), value.clock]
    if value.left_out:
        lines.append(f"{value.left_out} messages more were not kept")
    return "\n".join(lines)
