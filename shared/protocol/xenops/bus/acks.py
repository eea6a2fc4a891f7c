# SPDX-License-Identifier: Apache-2.0
"""Which acknowledgements to send for the deliveries of one channel: as few as are true.

AMQP numbers the deliveries of a channel 1, 2, 3 … and lets one acknowledgement stand for all up to a number. Work ends
in any order, so that is only true of a prefix: an unfinished delivery is never acknowledged.
"""

from typing import NamedTuple


class Ack(NamedTuple):
    """One acknowledgement: of `tag` alone, or of everything up to it."""

    tag: int
    multiple: bool


class Acks:
    """The deliveries of one channel that are done and not acknowledged yet."""

    def __init__(self) -> None:
        self._first = 1  # every delivery below this is settled
        self._done: set[int] = set()
        self._settled: set[int] = set()  # from `_first` upwards, settled one by one

    @property
    def waiting(self) -> bool:
        """Whether `take` would return anything."""
        return bool(self._done)

    def done(self, tag: int) -> None:
        """The work of this delivery has ended."""
        if tag >= self._first and tag not in self._settled:
            self._done.add(tag)

    def settle(self, tag: int) -> None:
        """This delivery was refused on the wire: there is nothing left to acknowledge."""
        self._done.discard(tag)
        if tag >= self._first:
            self._settled.add(tag)

    def take(self) -> list[Ack]:
        """The acknowledgements to send now."""
        run, top = 0, 0
        while self._first in self._done or self._first in self._settled:
            if self._first in self._done:
                self._done.discard(self._first)
                run, top = run + 1, self._first
            else:
                self._settled.discard(self._first)
            self._first += 1
        acks = [Ack(top, run > 1)] if run else []
        acks += (Ack(tag, False) for tag in sorted(self._done))
        self._settled |= self._done
        self._done.clear()
        return acks
