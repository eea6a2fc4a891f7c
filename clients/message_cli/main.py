# SPDX-License-Identifier: Apache-2.0
"""The command `message-cli`: read the command line, do what it says, print what came of it, end with the right code."""

import asyncio
import logging
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from message_cli import render
from message_cli.commands import COMMANDS, Command
from message_cli.exits import Complaint, Exit, code_of
from message_cli.parser import PROGRAM, build
from message_cli.session import connected
from xenops.errors import Fault

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def main() -> int:
    """The console script."""
    return run(sys.argv[1:])


def run(argv: Sequence[str]) -> int:
    """Run one command; the exit code is returned, never raised."""
    parser = build()
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return Exit.OK
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if args.debug else logging.CRITICAL)
        command = next(command for command in COMMANDS if command.name == args.command)
        return asyncio.run(_perform(command, args))
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.USAGE
    except KeyboardInterrupt:
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


async def _perform(command: Command, args: Namespace) -> int:
    came: list[int] = []
    _watch_signals(came)
    try:
        value = await _value(command, args)
    except asyncio.CancelledError:
        return 128 + came[-1] if came else Exit.INTERRUPTED
    except ExceptionGroup as group:
        error = _first(group)
        if not isinstance(error, Fault | Complaint):
            raise
        return _refuse(error, args)
    except (Fault, Complaint) as error:
        return _refuse(error, args)
    if command.streams and value is None:
        return Exit.OK
    text = render.document(value) if args.json else command.show(value)
    if text:
        print(text, flush=True)
    return Exit.OK


async def _value(command: Command, args: Namespace) -> Any:
    if command.read is not None and (command.run is None or args.recorded):
        return await command.read(args)
    assert command.run is not None
    async with connected(args) as session:
        return await command.run(session)


def _watch_signals(came: list[int]) -> None:
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None

    def end(number: int) -> None:
        came.append(number)
        task.cancel()

    for number in _SIGNALS:
        loop.add_signal_handler(number, end, number)


def _first(error: Exception) -> Exception:
    """What callers side by side met is mostly one and the same: the first of it is told."""
    return _first(error.exceptions[0]) if isinstance(error, ExceptionGroup) else error


def _refuse(error: Fault | Complaint, args: Namespace) -> int:
    print(f"{PROGRAM}: {render.clean(error)}", file=sys.stderr, flush=True)
    if args.json:
        name, fields = (error.name, error.fields()) if isinstance(error, Fault) else ("Complaint", {})
        print(render.document({"fault": {"name": name, "fields": fields, "message": str(error)}}), flush=True)
    return code_of(error)
