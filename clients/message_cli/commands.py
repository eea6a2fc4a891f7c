# SPDX-License-Identifier: Apache-2.0
"""All commands: their words, what each does, and how its value is shown."""

import argparse
import importlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from message_cli import calling, passing, queues, render
from message_cli.chart import watching
from message_cli.session import Session


@dataclass(frozen=True, kw_only=True)
class Command:
    """One word of the command line; `run` knows nothing of how its value is shown, which is why each has `--json`."""

    name: str
    help: str
    run: Callable[[Session], Awaitable[Any]] | None
    show: Callable[[Any], str] = render.result
    arguments: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = ()
    read: Callable[[argparse.Namespace], Awaitable[Any]] | None = (
        None  # no broker is asked: with --recorded, or where there is no `run`
    )
    streams: bool = False  # it may print lines as they come, and then returns None


def seconds(text: str) -> float:
    """A number of seconds above zero."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; write 30 or 0.5")
    return value


def count(text: str) -> int:
    """A whole number of one or more."""
    if not text.isascii() or not text.isdecimal() or len(text) > 9 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of one or more")
    return int(text)


async def completion(args: argparse.Namespace) -> dict[str, str]:
    """A script that completes our words in a shell."""
    parser = importlib.import_module("message_cli.parser")  # it is grown from what stands below
    return {"shell": args.shell, "script": parser.completion(args.shell)}


def _argument(*names: str, **options: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
    return names, options


_QUEUE = _argument("queue", metavar="QUEUE", help="the name of a queue")
_PREFIX = _argument("prefix", metavar="PREFIX", nargs="?", default="", help="only names that begin with this")
_PARAMS = _argument("params", metavar="JSON", nargs="?", default="{}", help="params as one JSON object; - reads them")
_TIMEOUT = _argument("--timeout", metavar="S", type=seconds, default=30.0, help="seconds to wait (default 30)")
_FORCE = _argument("--force", action="store_true", help="also with messages or consumers")

_WATCH = (
    _argument("pattern", metavar="QUEUE", nargs="?", default="", help="only requests to these, as in 'xenops.*'"),
    _argument("--seconds", metavar="S", type=seconds, default=5.0, help="how long to watch (default 5)"),
    _argument("--calls", metavar="N", type=count, default=10**9, help="end after so many answered calls"),
    _argument("--recorded", metavar="FILE", help="what `tail --follow --json` wrote instead; - is standard input"),
)

COMMANDS: tuple[Command, ...] = (
    Command(
        name="list",
        help="List queues with what waits in them and who consumes.",
        run=queues.listed,
        show=lambda value: render.table(value, render.QUEUES),
        arguments=(_PREFIX, _argument("--alive", action="store_true", help="only those that somebody consumes from")),
    ),
    Command(
        name="diagnostics",
        help="Say of each service whether it runs, never started, crashed or is deadlocked, and what waits for it.",
        run=queues.diagnostics,
        show=lambda value: render.table(value, render.DIAGNOSTICS),
        arguments=(
            _PREFIX,
            _argument("--patience", metavar="S", type=seconds, default=30.0, help="a message may wait (default 30)"),
        ),
    ),
    Command(
        name="call",
        help="Send one request and print its reply.",
        run=calling.call,
        arguments=(
            _QUEUE,
            _argument("method", metavar="METHOD", nargs="?", help="as in VM.list"),
            _PARAMS,
            _argument("--file", metavar="FILE", help="send these bytes instead; - is standard input"),
            _argument("--type", metavar="TYPE", default="application/json", help="what the file holds"),
            _TIMEOUT,
        ),
    ),
    Command(
        name="serve",
        help="Answer requests with a program (request on its input, reply from its output), or by hand.",
        run=calling.serve,
        arguments=(
            _QUEUE,
            _argument("program", metavar="-- PROGRAM", nargs="*", help="the program with its arguments"),
            _argument("--at-once", metavar="N", type=count, default=8, help="requests side by side (default 8)"),
            _TIMEOUT,
        ),
    ),
    Command(
        name="tail",
        help="Show what waits in a queue and leave it there, or with --follow what passes on the bus; never a secret.",
        run=passing.tail,
        show=render.waiting,
        streams=True,
        arguments=(
            _argument(
                "pattern", metavar="QUEUE", nargs="?", default="", help="with --follow a pattern, as in 'xenops.*'"
            ),
            _argument("-f", "--follow", action="store_true", help="show messages as they pass"),
            _argument("--bodies", action="store_true", help="show fields too, without secrets"),
            _argument("--count", metavar="N", type=count, default=10**9, help="end after so many"),
        ),
    ),
    Command(
        name="mscgen",
        help="Draw who asked whom for what, and how long each answer took; no body is shown.",
        run=watching.watch,
        read=watching.read,
        show=watching.chart,
        arguments=(
            *_WATCH,
            _argument(
                "--format",
                choices=watching.FORMATS,
                default="text",
                help="for the terminal, for mscgen(1), or a picture",
            ),
        ),
    ),
    Command(
        name="latency",
        help="Say of each method how often it was asked for, and how long its answers took.",
        run=watching.watch,
        read=watching.read,
        show=watching.summary,
        arguments=_WATCH,
    ),
    Command(
        name="bench",
        help="Measure calls: how many a second, and how long they take. The method is really called.",
        run=calling.bench,
        show=render.facts,
        arguments=(
            _QUEUE,
            _argument("method", metavar="METHOD", nargs="?", default="query", help="default: query"),
            _PARAMS,
            _argument("--callers", metavar="N", type=count, default=16, help="callers at once (default 16)"),
            _argument("--seconds", metavar="S", type=seconds, default=5.0, help="how long (default 5)"),
            _TIMEOUT,
        ),
    ),
    Command(
        name="ack",
        help="Forget one waiting message, as if it had been served.",
        run=queues.ack,
        show=lambda value: "",
        arguments=(_QUEUE, _argument("id", metavar="ID", help="its message id, or #N for its place from 0")),
    ),
    Command(
        name="destroy",
        help="Delete a queue that nobody uses and nothing waits in.",
        run=queues.destroy,
        show=lambda value: "",
        arguments=(_QUEUE, _FORCE),
    ),
    Command(
        name="dlq",
        help="Dead letters: list or show them (without secrets), requeue them to where they came from, or drop them.",
        run=queues.dead,
        show=render.letters,
        arguments=(
            _argument("act", choices=("list", "show", "requeue", "drop")),
            _argument("ids", metavar="ID", nargs="*", help="message ids, or #N for a place from 0"),
            _argument("--all", action="store_true", help="all of them"),
            _argument("--to", metavar="QUEUE", help="requeue there instead"),
        ),
    ),
    Command(
        name="completion",
        help='Print a completion script; for bash: eval "$(message-cli completion bash)".',
        run=None,
        read=completion,
        show=lambda value: str(value["script"]),
        arguments=(_argument("shell", choices=("bash", "zsh", "tcsh")),),
    ),
)
