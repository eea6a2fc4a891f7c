# SPDX-License-Identifier: Apache-2.0
"""What Ctrl-C means: the first one asks nicely where a command knows how, the next one ends the program."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from xenops.errors import Fault

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """The signals of one run; `signal` is the last one that came."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self._main: asyncio.Task[object] | None = None
        self._gently: Callable[[], Awaitable[None]] | None = None
        self._asking: asyncio.Task[None] | None = None

    def install(self) -> None:
        """Watch for signals from now on, on behalf of the current task; it is cancelled when one comes."""
        self._main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            loop.add_signal_handler(number, self.came, number)

    @contextmanager
    def first(self, gently: Callable[[], Awaitable[None]]) -> Iterator[None]:
        """Within this block the first Ctrl-C runs `gently` instead of ending the program."""
        self._gently = gently
        try:
            yield
        finally:
            self._gently = None

    def came(self, number: signal.Signals) -> None:
        """A signal came."""
        self.signal = number
        gently, self._gently = self._gently, None
        if number == signal.SIGINT and gently is not None:
            self._asking = asyncio.ensure_future(self._ask(gently))
        elif self._main is not None:
            self._main.cancel()

    async def _ask(self, gently: Callable[[], Awaitable[None]]) -> None:
        try:
            await gently()
        except Fault:  # asking was no use: what is waited for will say how it ended
            return
