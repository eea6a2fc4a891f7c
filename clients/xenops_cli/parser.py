# SPDX-License-Identifier: Apache-2.0
"""The command line's grammar, grown from the list of commands."""

import argparse
import os
import re
from typing import NoReturn

from xenops_cli import VERSION
from xenops_cli.command import Command
from xenops_cli.commands import commands, families
from xenops_cli.exits import legend
from xenops_cli.selection import nearest_word

PROGRAM = "xenops-cli"
_UNKNOWN = re.compile(r"argument COMMAND: invalid choice: (?P<word>'.*?'|\".*?\") \(choose from")
_USUAL = 80  # columns
_NAMES = 22  # the width of the column of names


def terminal_width() -> int:
    """As `shutil.get_terminal_size` has it, which would be read for its compressors."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(1).columns or _USUAL
    except OSError:
        return _USUAL


class Lines(argparse.HelpFormatter):
    """As wide as the terminal."""

    def __init__(self, prog: str, indent_increment: int = 2, max_help_position: int = 24, width: int | None = None):
        super().__init__(prog, indent_increment, max_help_position, width or terminal_width() - 2)


class Text(Lines, argparse.RawDescriptionHelpFormatter):
    """Keeps the lines of a description."""


class Overview(Text):
    """Leaves the commands out of the list of arguments: they stand below it by family."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add what is no command."""
        if action.nargs != argparse.PARSER:
            super().add_argument(action)


class Parser(argparse.ArgumentParser):
    """An argparse parser that knows what somebody may have meant."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line, and where help is; exit code 2."""
        unknown = _UNKNOWN.match(message)
        if unknown:
            word = unknown["word"][1:-1]
            message = f"there is no command {word!r}; {nearest_word(word, commands(), '--help')}"
            self.exit(2, f"{PROGRAM}: {message}\n")
        self.exit(2, f"{PROGRAM}: {message}; `{self.prog} --help` says more\n")


def build(word: str = "") -> argparse.ArgumentParser:
    """The whole tree; what is needed of it, if the command line begins with that command."""
    parser = Parser(
        prog=PROGRAM,
        description="Register, start, watch and stop the virtual machines of a Xen host.",
        usage=f"{PROGRAM} [options] COMMAND [arguments]",
        epilog=_overview(word) + "\n\n" + legend() + f"\n\n`{PROGRAM} COMMAND --help` says more of each.",
        formatter_class=Overview,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    _shared(parser)
    parser.set_defaults(json=False, url=None, queue=None, debug=False, no_wait=False, columns=None, no_headers=False)
    words = parser.add_subparsers(prog=PROGRAM, dest="command", metavar="COMMAND", parser_class=Parser)
    family = commands(word)
    for command in [family[word]] if word in family else family.values():
        _grow(words.add_parser, command)
    return parser


def _grow(add_parser: object, command: Command) -> None:
    summary = command.help.split("\n")[0].replace("%", "%%")
    parser: argparse.ArgumentParser = add_parser(  # type: ignore[operator]
        command.name,
        help=summary,
        description=command.help,
        formatter_class=Text if "\n" in command.help else Lines,
        allow_abbrev=False,
    )
    for argument in command.arguments:
        parser.add_argument(*argument.names, **argument.options)
    _shared(parser)


def _shared(parser: argparse.ArgumentParser) -> None:
    """Options that may stand before the command or behind it."""
    group = parser.add_argument_group("options of every command")
    absent = argparse.SUPPRESS  # so that the place that was not used does not undo the other
    group.add_argument("--json", action="store_true", default=absent, help="print one JSON document")
    group.add_argument("--url", metavar="URL", default=absent, help="the switch, where it is not the one of this host")
    group.add_argument("--queue", metavar="QUEUE", default=absent, help="xenopsd's queue: xenops.<host>.<instance>")
    group.add_argument("--debug", action="store_true", default=absent, help="show tracebacks and the bus's log")


def _overview(word: str) -> str:
    parts = []
    for title, family in families(word).items():
        lines = [f"  {command.name:<{_NAMES}}{command.help.split(chr(10))[0]}" for command in family]
        parts.append("\n".join([f"{title}:", *lines]))
    return "\n\n".join(parts)
