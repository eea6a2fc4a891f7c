# SPDX-License-Identifier: Apache-2.0
"""A terminal in raw mode, for as long as somebody is attached to a console, and as it was before in any case."""

import os
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager

DETACH = 0x1D  # Ctrl-]


@contextmanager
def raw(descriptor: int) -> Iterator[None]:
    """Every key goes to the guest, Ctrl-C too; what is no terminal is left alone."""
    if not os.isatty(descriptor):
        yield
        return
    before = termios.tcgetattr(descriptor)
    try:
        tty.setraw(descriptor)
        yield
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it, however little the system takes at a time."""
    while data:
        data = data[os.write(descriptor, data) :]
