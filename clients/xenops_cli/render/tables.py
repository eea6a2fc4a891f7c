# SPDX-License-Identifier: Apache-2.0
"""Text from values: tables, lists of facts, lines that are safe to print.

What comes from a guest or a configuration file may hold control characters: nothing is printed that has not passed
through `clean`.
"""

import unicodedata
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from msgspec import Struct

GAP = "  "
SHORTEST = 8  # no column is cut below this to fit a terminal

GREEN, YELLOW, CYAN, RED, BOLD = "32", "33", "36", "31", "1"


class View(Struct, frozen=True):
    """How somebody wants to see a value; `width` is a terminal's, and absent when the output is piped."""

    colour: bool = False
    width: int | None = None
    columns: tuple[str, ...] = ()
    headers: bool = True
    quiet: bool = False


class Column(Struct, frozen=True):
    """A column by the name that `-o` knows; `paint` gives some words a colour, `usual` columns are shown unasked."""

    name: str
    header: str
    cell: Callable[[Any], object]
    right: bool = False
    usual: bool = True
    paint: dict[str, str] = {}


def clean(untrusted: object) -> str:
    """One printable line."""
    return "".join(c if c.isprintable() else "�" for c in str(untrusted))


def clean_text(untrusted: str) -> str:
    """Printable lines; tabs stay."""
    return "\n".join("\t".join(clean(part) for part in line.split("\t")) for line in untrusted.split("\n"))


def paint(text: str, colour: str, view: View) -> str:
    """`text` in a colour, where the view has any."""
    return f"\x1b[{colour}m{text}\x1b[0m" if view.colour and colour and text else text


def table(rows: Iterable[Any], columns: Sequence[Column], view: View) -> str:
    """Aligned columns under a line of headers; the last column is not padded."""
    by_name = {column.name: column for column in columns}
    chosen = [by_name[name] for name in view.columns] or [column for column in columns if column.usual]
    cells = [[clean(column.cell(row)) for column in chosen] for row in rows]
    heads = [[column.header for column in chosen]] if view.headers else []
    widths = [max((_wide(line[i]) for line in heads + cells), default=0) for i in range(len(chosen))]
    if view.width is not None:
        widths = _fitted(widths, view.width)
    lines = [_line(line, chosen, widths, lambda column, text: paint(text, BOLD, view)) for line in heads]
    lines += [
        _line(line, chosen, widths, lambda column, text: paint(text, column.paint.get(text.strip(), ""), view))
        for line in cells
    ]
    return "\n".join(lines)


def facts(pairs: Iterable[tuple[str, object]], width: int = 0) -> str:
    """One `name: value` a line, the names aligned on their colons."""
    known = [(clean(name), clean(value)) for name, value in pairs]
    widest = max([width, *(_wide(name) for name, _ in known)])
    return "\n".join(f"{' ' * (widest - _wide(name))}{name}: {value}".rstrip() for name, value in known)


def flat(value: Any, prefix: str = "") -> list[tuple[str, object]]:
    """The leaves of nested maps under dotted names; lists stay in one line."""
    if isinstance(value, dict) and value:
        return [pair for key, item in value.items() for pair in flat(item, f"{prefix}.{key}" if prefix else str(key))]
    if isinstance(value, list):
        return [(prefix, ", ".join(str(item) for item in value))]
    return [(prefix, "" if value == {} else value)]


def _line(
    cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], dress: Callable[[Column, str], str]
) -> str:
    parts = []
    for i, (text, column, width) in enumerate(zip(cells, columns, widths, strict=True)):
        short = _shortened(text, width)
        space = " " * (width - _wide(short))
        last = i == len(columns) - 1
        parts.append(space + dress(column, short) if column.right else dress(column, short) + ("" if last else space))
    return GAP.join(parts).rstrip()


def _fitted(widths: list[int], total: int) -> list[int]:
    """Take from the widest column until the line fits, or until nothing more can be taken."""
    widths = list(widths)
    while sum(widths) + len(GAP) * (len(widths) - 1) > total and max(widths, default=0) > SHORTEST:
        widths[widths.index(max(widths))] -= 1
    return widths


def _shortened(text: str, width: int) -> str:
    if _wide(text) <= width:
        return text
    while text and _wide(text) > width - 1:
        text = text[:-1]
    return text + "…"


def _wide(text: str) -> int:
    """How many places of a terminal a text takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
