# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a configuration, always with the place: file, line, column, the line's text and a caret."""

from dataclasses import dataclass

_WIDTH = 120


@dataclass(frozen=True)
class Place:
    """A character of the text; both numbers count from 1."""

    line: int
    column: int


class ConfigError(ValueError):
    """The configuration asks for something that cannot be; the person who wrote it can mend it."""

    def __init__(self, source: "Source", place: Place, reason: str) -> None:
        super().__init__(reason)
        self.filename = source.filename
        self.line = place.line
        self.column = place.column
        self.reason = reason
        self.text, self.caret = source.show(place)

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}:{self.column}: {self.reason}\n    {self.text}\n    {self.caret}"


class ConfigSyntaxError(ConfigError):
    """The text is not in the configuration language at all."""


@dataclass(frozen=True)
class ConfigWarning:
    """Something that has no effect, or not the one that its author may expect; the rest does take effect."""

    filename: str
    line: int
    column: int
    key: str
    reason: str

    def __str__(self) -> str:
        return f"{self.filename}:{self.line}: {self.key}: {self.reason}"


class Source:
    """The text and its name, cut into lines once."""

    def __init__(self, filename: str, untrusted_text: str) -> None:
        self.filename = filename
        self.text = untrusted_text
        self._lines = untrusted_text.split("\n")

    def show(self, place: Place) -> tuple[str, str]:
        """The line and, to print beneath it, a caret; a long line is cut to the surroundings of the caret."""
        line = self._lines[place.line - 1].removesuffix("\r")
        start = max(0, place.column - _WIDTH * 3 // 4) if len(line) > _WIDTH else 0
        # What is no printable character could move the cursor of the terminal on which this is shown.
        window = "".join(c if c.isprintable() or c == "\t" else "?" for c in line[start : start + _WIDTH])
        before = window.ljust(place.column)[: place.column - 1 - start]
        return window, "".join("\t" if c == "\t" else " " for c in before) + "^"
