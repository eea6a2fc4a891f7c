# SPDX-License-Identifier: Apache-2.0
"""What Ctrl-C means: it ends what is under way, wherever that is, unless a command asks nicely first (`Session.watch`)."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(KeyboardInterrupt):
    """A signal came; like Ctrl-C everywhere, it is no `Exception`."""

    def __init__(self, number: signal.Signals) -> None:
        super().__init__(number.name)
        self.number = number


class Interrupts:
    """The signals of one run; `signal` is the last one that came."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Within this block a signal raises `Stopped`."""
        before = [(number, signal.getsignal(number)) for number in SIGNALS]
        self.install()
        try:
            yield
        finally:
            for number, handler in before:
                signal.signal(number, handler)

    def install(self) -> None:
        """Watch again, after an event loop did it in its own way."""
        for number in SIGNALS:
            signal.signal(number, self._came)

    def note(self, number: signal.Signals, then: Callable[[], object]) -> None:
        """A signal came to an event loop."""
        self.signal = number
        then()

    def _came(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        raise Stopped(self.signal)
