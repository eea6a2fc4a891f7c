# SPDX-License-Identifier: Apache-2.0
"""xenopsd as it is, but it ends without warning (SIGKILL) at the point that a request's debug_info names.

dies begin 1 vm.Build          as that step begins, the first time that it does
dies end 2 vbd.SetActive xvda  when it has been taken and nobody has noted that yet, the second time
dies change 17                 before the task's 17th change of the world, whatever a backend counts as one
dies record 3                  at the third point of a request that changes records: a call of the backend, before or after a write
dies record-cut 3              not it but its switch, there
dies cut 1 vm.Build            not it but its switch, before that step begins: who listens at the socket CUTTER sees to it
"""

import os
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xenops.rpc import calling
from xenopsd.backends.simulator.injection import Noun
from xenopsd.engine import perform
from xenopsd.engine.plan import Atom
from xenopsd.main import main as live
from xenopsd.store.database import Database

_WORD = "dies"
CUTTER, DEATHS = "XENOPSD_CUTTER", "XENOPSD_DEATHS"
_step = perform._step


@dataclass(frozen=True)
class Death:
    """Where it ends."""

    when: str  # begin, end, change, cut, record or record-cut
    nth: int
    step: str = ""

    @property
    def words(self) -> str:
        """As debug_info."""
        return f"{_WORD} {self.when} {self.nth} {self.step}".rstrip()

    @staticmethod
    def parse(words: str) -> "Death | None":
        """What a debug_info says, when it says anything of this."""
        first, _, rest = words.partition(" ")
        if first != _WORD:
            return None
        when, number, *step = rest.split(" ", 2)
        return Death(when, int(number), step[0] if step else "")


class Changes:
    """How often the world was changed since a task began that is to end with one of them."""

    def __init__(self) -> None:
        self._last: int | None = None
        self._made = 0

    def expect(self, last: int) -> None:
        """Count from now on."""
        if self._last is None:
            self._last = last

    def count(self) -> None:
        """The world is about to be changed; from any thread."""
        if self._last is None:
            return
        self._made += 1
        if self._made == self._last:
            die()


changes = Changes()
_begun: Counter[tuple[str, str]] = Counter()  # by task and step
_points: Counter[str | None] = Counter()  # by request
_enter, _write = Noun.enter, Database.write_or_refuse


def die() -> None:
    """At once; nothing is closed, undone or written any more."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def cut() -> None:
    """Stand still until the switch has been killed."""
    with socket.socket(socket.AF_UNIX) as cutter:
        cutter.connect(os.environ[CUTTER])
        cutter.recv(1)


async def _watched_step(atom: Atom, cx: Any) -> None:
    death = Death.parse(cx.task.dbg)
    if death is None:
        await _step(atom, cx)
        return
    if death.when == "change":
        changes.expect(death.nth)
    name = name_of(atom)
    _begun[cx.task.id, name] += 1
    here = (name, _begun[cx.task.id, name]) == (death.step, death.nth)
    if here and death.when == "begin":
        die()
    if here and death.when == "cut":
        cut()
    await _step(atom, cx)
    if here and death.when == "end":
        die()


def name_of(atom: Atom) -> str:
    """What a step is called in a plan."""
    return f"{atom.label} {atom.about}".rstrip()


def _point() -> None:
    """A request that changes records is at a point where it may be told to die."""
    envelope = calling.get()
    death = Death.parse(envelope.debug_info)
    if death is None or not death.when.startswith("record"):
        return
    _points[envelope.message_id] += 1
    if _points[envelope.message_id] != death.nth:
        return
    once = Path(os.environ[DEATHS]) / str(envelope.message_id)
    if not once.exists():  # its request comes again, to every next life
        once.touch()
        die() if death.when == "record" else cut()


async def _watched_enter(noun: Noun, call: str) -> None:
    _point()
    await _enter(noun, call)


async def _watched_write(database: Database, *statements: Any, **then: Any) -> None:
    _point()
    await _write(database, *statements, **then)
    _point()


def main() -> int:
    """The command `xenopsd`."""
    perform._step = _watched_step
    Noun.enter = _watched_enter  # type: ignore[method-assign]
    Database.write_or_refuse = _watched_write  # type: ignore[method-assign]
    return live()
