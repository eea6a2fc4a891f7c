# SPDX-License-Identifier: Apache-2.0
"""Which consoles there are, and what has to be asked of xenopsd to know it again.

Facts go in (events, listings, single answers), the next question comes out:

    events, gaps ──heed──> what is stale ──ask──> EVERYTHING or one VM ──learn_all / learn / forget──> the consoles

It asks nothing itself and has no clock. A VM that becomes stale again while it is asked about is asked about again.
"""

from collections.abc import Iterable
from enum import Enum
from typing import Literal

from xenops.errors import BadRequest
from xenops.events import Change, Kind
from xenops.types.console import Console, ConsoleProtocol, VmConsole
from xenops.types.vm import PowerState, VmStat
from xenops.wire import decode_event

_ALIVE = (PowerState.RUNNING, PowerState.PAUSED)


class Question(Enum):
    """What to ask of xenopsd beside a single VM's id."""

    EVERYTHING = "everything"


EVERYTHING: Literal[Question.EVERYTHING] = Question.EVERYTHING


class Consoles:
    """The consoles of the machines of one xenopsd; knows nothing and wants EVERYTHING at first."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[VmConsole, ...]] = {}
        self._stale: dict[str, None] = {}  # in order
        self._everything_stale = True
        self._epoch, self._seq = "", 0

    def heed(self, untrusted: bytes) -> None:
        """Take an event of xenopsd; what is no event, or comes after a gap, makes everything stale."""
        try:
            event = decode_event(untrusted)
        except BadRequest:
            self.lose_track()
            return
        if (event.epoch, event.seq) != (self._epoch, self._seq + 1):
            self.lose_track()
        self._epoch, self._seq = event.epoch, event.seq
        if event.kind is Kind.SERVICE:
            self.lose_track()
        if event.kind is Kind.VM:
            if event.change is Change.REMOVED:
                self._known.pop(event.id, None)
            self._stale[event.id] = None

    def lose_track(self) -> None:
        """Events may have been missed: everything is to be asked again."""
        self._everything_stale = True

    def ask(self) -> str | Question | None:
        """The next question, which counts as asked from now on; None if all is known."""
        if self._everything_stale:
            self._everything_stale = False
            self._stale.clear()
            return EVERYTHING
        if self._stale:
            id = next(iter(self._stale))
            del self._stale[id]
            return id
        return None

    def ask_again(self, question: str | Question) -> None:
        """A question went unanswered."""
        if isinstance(question, Question):
            self._everything_stale = True
        else:
            self._stale[question] = None

    def learn_all(self, stats: Iterable[VmStat]) -> None:
        """The answer to EVERYTHING."""
        self._known = {}
        for stat in stats:
            self.learn(stat)

    def learn(self, stat: VmStat) -> None:
        """The answer about one VM."""
        offered = stat.state.consoles if stat.state.power_state in _ALIVE else ()
        found = tuple(VmConsole(vm=stat.vm.id, name=stat.vm.name, console=one) for one in offered)
        if found:
            self._known[stat.vm.id] = found
        else:
            self.forget(stat.vm.id)

    def forget(self, id: str) -> None:
        """There is no such VM."""
        self._known.pop(id, None)

    def list(self) -> "list[VmConsole]":
        """Every console, by VM."""
        return [console for of_vm in self._known.values() for console in of_vm]

    def find(self, id: str, protocol: ConsoleProtocol) -> Console | None:
        """The first console of a VM that speaks this protocol."""
        return next((c.console for c in self._known.get(id, ()) if c.console.protocol is protocol), None)
