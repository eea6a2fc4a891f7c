# SPDX-License-Identifier: Apache-2.0
"""Logs that a person reads on a terminal and a journal sorts by priority; each line carries the work it belongs to."""

import logging
import os
import sys
from contextvars import ContextVar

# What the current work is called (the caller's debug_info, a task id): every line logged within it says so.
work: ContextVar[str] = ContextVar("work", default="")

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}
_COLOUR = {logging.DEBUG: "2", logging.WARNING: "33", logging.ERROR: "31", logging.CRITICAL: "1;31"}


class _Lines(logging.Formatter):
    def __init__(self, program: str, *, journal: bool, colour: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._program, self._journal, self._colour = program, journal, colour

    def format(self, record: logging.LogRecord) -> str:
        about = f" [{work.get()}]" if work.get() else ""
        text = record.getMessage().replace("\n", "\\n")
        if record.exc_info:
            text = f"{text}\n{self.formatException(record.exc_info)}"
        if self._journal:
            return f"<{_PRIORITY.get(record.levelno, 6)}>{record.name}{about}: {text}"
        stamp = f"{self.formatTime(record, self.datefmt)}.{int(record.msecs):03d}"
        line = f"{stamp} {self._program:<14} {record.levelname.lower():<7} {record.name}{about}: {text}"
        code = _COLOUR.get(record.levelno) if self._colour else None
        return f"\x1b[{code}m{line}\x1b[0m" if code else line


def configure(program: str, level: str = "info") -> None:
    """Send every logger's lines to standard error, from `level` upwards."""
    to_stderr = logging.StreamHandler(sys.stderr)
    colour = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    to_stderr.setFormatter(_Lines(program, journal="JOURNAL_STREAM" in os.environ, colour=colour))
    root = logging.getLogger()
    root.handlers[:] = [to_stderr]
    root.setLevel(level.upper())
    # The AMQP library tells of every socket it opens; that is of use to its own developers.
    logging.getLogger("pika").setLevel(max(logging.WARNING, root.level))
