# SPDX-License-Identifier: Apache-2.0
"""A bar that shows how far a task is, on a terminal only."""

from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from xenops_cli.render.tables import clean

WIDTH = 24


class Bar:
    """One line of a terminal, redrawn in place and gone at the end."""

    def __init__(self, label: str, terminal: TextIO) -> None:
        self._label = clean(label)[:48]
        self._terminal = terminal if terminal.isatty() else None

    def __enter__(self) -> "Bar":
        self.show(0.0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._write("")

    @property
    def progress(self) -> Callable[[float], None] | None:
        """Whom to tell how far it is: nobody, where there is no terminal."""
        return None if self._terminal is None else self.show

    def show(self, progress: float) -> None:
        """Draw the bar at `progress` from 0 to 1."""
        self._write(line(self._label, progress))

    def _write(self, text: str) -> None:
        if self._terminal is not None:
            self._terminal.write(f"\r\x1b[K{text}")
            self._terminal.flush()


def line(label: str, progress: float) -> str:
    """The bar as text."""
    done = min(max(progress, 0.0), 1.0)
    full = round(done * WIDTH)
    return f"{label}  [{'#' * full}{'-' * (WIDTH - full)}] {done:4.0%}"
