# SPDX-License-Identifier: Apache-2.0
"""The command line's grammar, grown from the list of commands, and what completes it in a shell."""

import argparse
import importlib

from message_cli import VERSION
from message_cli.commands import COMMANDS
from message_cli.exits import Complaint, legend

PROGRAM = "message-cli"


def completion(shell: str) -> str:
    """A script that completes our words and options in that shell."""
    try:
        shtab = importlib.import_module("shtab")  # optional, and slow enough not to be loaded for every command
    except ModuleNotFoundError:
        raise Complaint("completion needs shtab: pip install 'xenopsd[cli]'") from None
    script: str = shtab.complete(build(), shell=shell)
    return script


def build() -> argparse.ArgumentParser:
    """The command line's grammar."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Look after a message bus: the embedded switch or RabbitMQ.",
        epilog=legend(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {VERSION}")
    parser.set_defaults(json=False, url=None, management=None, debug=False)
    _shared(parser)
    words = parser.add_subparsers(dest="command", metavar="COMMAND")
    for command in COMMANDS:
        word = words.add_parser(command.name, help=command.help, description=command.help, allow_abbrev=False)
        for names, options in command.arguments:
            word.add_argument(*names, **options)
        _shared(word)
    return parser


def _shared(parser: argparse.ArgumentParser) -> None:
    """Options that may stand before the command or behind it."""
    group, absent = parser.add_argument_group("options of every command"), argparse.SUPPRESS
    group.add_argument("--json", action="store_true", default=absent, help="print JSON")
    group.add_argument("--url", metavar="URL", default=absent, help="the broker; keep passwords in XENOPS_URL instead")
    group.add_argument("--management", metavar="URL", default=absent, help="RabbitMQ's HTTP API, without a password")
    group.add_argument("--debug", action="store_true", default=absent, help="show tracebacks and the bus's log")
