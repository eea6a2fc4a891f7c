# SPDX-License-Identifier: Apache-2.0
"""Lines of text from what a command returns; nothing unprintable passes. Pure."""

from collections.abc import Sequence
from typing import Any

import msgspec

QUEUES = ("name", "ready", "unacked", "consumers", "oldest_s")
DIAGNOSTICS = ("name", "verdict", "ready", "unacked", "consumers", "oldest_s")
WAITING = ("place", "id", "method", "fault", "bytes")
LETTERS = ("id", "queue", "reason", "method", "bytes")


def clean(untrusted: object) -> str:
    """One printable line."""
    return "".join(c if c.isprintable() else "�" for c in str(untrusted))


def table(rows: Sequence[dict[str, Any]], columns: Sequence[str]) -> str:
    """Aligned columns under a line of headers."""
    cells = [[_cell(row.get(column, "")) for column in columns] for row in rows]
    lines = [[column.removesuffix("_s") for column in columns], *cells]
    widths = [max(len(line[at]) for line in lines) for at in range(len(columns))]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def facts(values: dict[str, Any]) -> str:
    """One `name: value` a line."""
    return "\n".join(f"{name}: {_cell(value)}" for name, value in values.items())


def letters(rows: Sequence[dict[str, Any]]) -> str:
    """Dead letters as a table; with their bodies, as JSON."""
    return document(rows) if any("body" in row for row in rows) else table(rows, LETTERS)


def waiting(rows: Sequence[dict[str, Any]] | None) -> str:
    """Messages that wait as a table; with their bodies, as JSON; what was followed has been printed."""
    if rows is None:
        return ""
    return document(rows) if any("body" in row for row in rows) else table(rows, WAITING)


def passed(row: dict[str, Any]) -> str:
    """One line about a message that passed."""
    arrow, where = ("->", row["where"] or "(default)") if row["way"] == "publish" else ("<-", row["where"])
    keys = ",".join(row["to"]) if row["way"] == "publish" else ""
    words = (arrow, where, keys, row["method"], row["fault"], row["correlation_id"], f"{row['bytes']} bytes")
    text = " ".join(clean(word) for word in words if word)
    return f"{text} {compact(row['body'])}" if "body" in row else text


def compact(value: Any) -> str:
    """JSON in one line."""
    return clean(msgspec.json.encode(value).decode())


def document(value: Any) -> str:
    """JSON for programs."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def result(value: Any) -> str:
    """A reply: text as it is but printable, anything else as JSON."""
    if isinstance(value, str):
        return "\n".join("\t".join(map(clean, line.split("\t"))) for line in value.rstrip("\n").split("\n"))
    return "" if value is None else document(value)


def _cell(value: object) -> str:
    return f"{value:.1f}" if isinstance(value, float) else clean(value)
