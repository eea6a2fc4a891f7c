# SPDX-License-Identifier: Apache-2.0
"""One run: read the command line, do what it says, print what came of it, and end with the right code.

No traceback ever reaches a person who did not ask for one with `--debug`.
"""

import contextlib
import logging
import os
import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from xenops import errors
from xenops.errors import Fault
from xenops_cli.command import Command
from xenops_cli.commands import commands
from xenops_cli.exits import Complaint, Exit, code_of, sentence_of
from xenops_cli.interrupts import Interrupts, Stopped
from xenops_cli.parser import build, terminal_width
from xenops_cli.render.tables import View, clean_text
from xenops_cli.render.values import document, line_document
from xenops_cli.session import Connect, Session, Stack


def run(argv: Sequence[str], connect: Connect) -> int:
    """Run one command; the exit code is returned, never raised."""
    word = argv[0] if argv else ""
    parser = build(word)
    try:
        args = parser.parse_args(argv)
        if args.command is None:
            parser.print_help()
            return Exit.OK
        logging.basicConfig(stream=sys.stderr, level=logging.DEBUG if args.debug else logging.CRITICAL)
        code = _perform(commands(word)[args.command], args, connect)
        sys.stdout.flush()
        return code
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else Exit.USAGE
    except Stopped as stopped:
        return 128 + stopped.number
    except KeyboardInterrupt:  # before our own signal handlers were in place
        return Exit.INTERRUPTED
    except BrokenPipeError:  # whoever read our output has had enough, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.FAILED


def _perform(command: Command, args: Namespace, connect: Connect) -> int:
    interrupts, view = Interrupts(), _view(args)
    try:
        with interrupts.watched(), contextlib.ExitStack() as opened:
            stack: Stack | None = None if command.offline else opened.enter_context(connect(args))
            _act(command, Session(args, stack, interrupts, sys.stderr), view)
    except errors.Cancelled as fault:
        code = _refuse(fault, args)
        return code if interrupts.signal is None else Exit.INTERRUPTED  # else somebody else cancelled it
    except (Fault, Complaint) as error:
        return _refuse(error, args)
    except BrokenPipeError:
        raise
    except Exception as error:
        if args.debug:
            raise
        logging.getLogger(__name__).debug("unexpected", exc_info=error)
        return _refuse(Complaint(f"unexpected: {type(error).__name__}: {error}; --debug shows where"), args)
    return Exit.OK if interrupts.signal is None else 128 + interrupts.signal


def _act(command: Command, session: Session, view: View) -> None:
    if command.streams:
        with contextlib.closing(command.run(session)) as values:
            for value in values:
                _print(line_document(value) if session.args.json else command.show(value, view))
        return
    value = command.run(session)
    _print(document(value) if session.args.json else command.show(value, view))


def _print(text: str) -> None:
    if text:
        print(text, flush=True)


def _refuse(error: Fault | Complaint, args: Namespace) -> int:
    """Say what went wrong, to the person and, with `--json`, to the program."""
    sentence = sentence_of(error)
    print(f"xenops-cli: {clean_text(sentence)}", file=sys.stderr, flush=True)
    if args.json:
        name, fields = (error.name, error.fields()) if isinstance(error, Fault) else ("Complaint", {})
        fault: dict[str, Any] = {"fault": {"name": name, "fields": fields, "message": sentence}}
        _print(line_document(fault) if commands(args.command)[args.command].streams else document(fault))
    return code_of(error)


def _view(args: Namespace) -> View:
    terminal = sys.stdout.isatty()
    return View(
        colour=terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb",
        width=terminal_width() if terminal else None,
        columns=args.columns or (),
        headers=not args.no_headers,
        quiet=getattr(args, "quiet", False),
    )
