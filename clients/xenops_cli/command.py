# SPDX-License-Identifier: Apache-2.0
"""What a command is: a name, its arguments, one action and one way to show what the action returns.

The action knows nothing of how its value is printed: that is why every command has `--json`.
"""

import argparse
import inspect
import re
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from xenops_cli.render.tables import Column, View
from xenops_cli.session import Session


class Argument(Struct, frozen=True):
    """An argument in the words of argparse."""

    names: tuple[str, ...]
    options: dict[str, Any]


def argument(*names: str, **options: Any) -> Argument:
    """An argument as `add_argument` takes it."""
    return Argument(names, options)


def nothing(value: Any, view: View) -> str:
    """Success is silent, as with other tools of its kind."""
    return ""


class Command(Struct, frozen=True, kw_only=True):
    """One word of the command line; `run` returns a value, or an iterator of values when it `streams`."""

    name: str
    help: str
    run: Callable[[Session], Any]
    show: Callable[[Any, View], str] = nothing
    arguments: tuple[Argument, ...] = ()
    streams: bool = False
    offline: bool = False  # needs no bus


def told(rpc: Callable[..., Any]) -> str:
    """What the declaration says of a method, so that the help of a command cannot drift from it."""
    if not hasattr(rpc, "__rpc__"):
        raise TypeError(f"{rpc!r} is not declared as an rpc")
    return inspect.cleandoc(rpc.__doc__ or "")


def seconds(text: str) -> float:
    """A number of seconds, zero or more."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds; write 30 or 0.5")
    return value


def count(text: str) -> int:
    """A whole number of one or more."""
    if not text.isascii() or not text.isdecimal() or len(text) > 18 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of one or more")
    return int(text)


MOST_BYTES = 1 << 52  # the bound of the interface
_UNITS = {"": 20, "k": 10, "m": 20, "g": 30, "t": 40}
_SIZE = re.compile(r"([0-9]{1,15})(?:([kmgt]?)(?:ib?)?)", re.IGNORECASE)


def size(text: str) -> int:
    """An amount of memory in bytes; a bare number is in MiB, as in xl."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not an amount of memory; write 256 (MiB), 512M or 2G")
    amount = int(match[1]) << _UNITS[(match[2] or "").lower()]
    if amount > MOST_BYTES:
        raise argparse.ArgumentTypeError(f"{text!r} is more memory than a machine can have, {MOST_BYTES >> 40} TiB")
    return amount


def table_arguments(columns: tuple[Column, ...]) -> tuple[Argument, ...]:
    """What every command that prints a table understands."""
    names = [column.name for column in columns]

    def chosen(text: str) -> tuple[str, ...]:
        wanted = tuple(word.strip() for word in text.split(","))
        for word in wanted:
            if word not in names:
                raise argparse.ArgumentTypeError(f"no column {word!r}; there are {', '.join(names)}")
        return wanted

    return (
        argument("-o", "--columns", metavar="A,B,…", type=chosen, help=f"which columns: {', '.join(names)}"),
        argument("--no-headers", action="store_true", help="leave out the line of headers"),
    )


MACHINE = argument("vm", metavar="VM", help="name or id of a machine, or the unique beginning of one")
DEVICE = argument("device", metavar="VM.DEV", nargs="+", help="a device: VM.DEV in one word, or VM DEV in two")
NO_WAIT = argument("--no-wait", action="store_true", help="print the task's id and leave at once")
