# SPDX-License-Identifier: Apache-2.0
"""What befalls a step, while the rest of the daemon is as it is.

fail     it fails before it has done anything       spoil    it does what it should, and fails then
stall    it never begins, and runs out of time      linger   it does what it should, and runs out of time then
cancel   its task is cancelled as it begins         block    it never begins, and its task is cancelled then
strand   a later step fails, and its undo never ends (`stranded`)
"""

import asyncio
from dataclasses import dataclass
from typing import Any

from tests.xenopsd.steps.samples import name_of
from xenops.errors import IoError
from xenopsd.engine import perform
from xenopsd.engine.plan import Atom
from xenopsd.engine.tasks import Task

ORDEALS = ("fail", "spoil", "stall", "linger", "cancel", "block")
TAKEN = ("spoil", "linger")  # what the step should do was done
STALL_S = 0.01
STRAND = "strand"
_step, _undo = perform._step, perform._undo


@dataclass
class Ordeal:
    """One of these, for that step of the task with that debug_info; `met` once it has come to it."""

    name: str
    step: str
    nth: int
    dbg: str
    met: asyncio.Event
    could_cancel: bool | None = None  # what the task said of itself as it came to the step
    seen: int = 0
    strands: str = ""  # the undo of this step never ends
    stranded: bool = False

    async def step_in(self, atom: Atom, cx: Any) -> None:
        """In place of `perform._step`."""
        if cx.task.dbg != self.dbg or name_of(atom) != self.step:
            return await _step(atom, cx)
        self.seen += 1
        if self.seen != self.nth:
            return await _step(atom, cx)
        self.could_cancel = cx.task.record().cancellable
        return await _step(_Befallen(atom, self), cx)

    async def undo_in(self, atom: Atom, cx: Any) -> None:
        """In place of `perform._undo`."""
        stranded = cx.task.dbg == self.dbg and name_of(atom) == self.strands
        self.stranded |= stranded
        await _undo(_Stranded(atom) if stranded else atom, cx)


@dataclass(frozen=True)
class _Stranded:
    atom: Atom
    undo_s: float = STALL_S

    @property
    def label(self) -> str:
        return self.atom.label

    async def undo(self, cx: Any) -> None:
        await asyncio.Event().wait()


@dataclass(frozen=True)
class _Befallen(Atom):
    atom: Atom
    ordeal: Ordeal

    @property
    def timeout_s(self) -> float:  # type: ignore[override]
        return STALL_S if self.ordeal.name == "stall" else self.atom.timeout_s

    @property
    def patience_s(self) -> float:  # type: ignore[override]
        return min(self.atom.patience_s, STALL_S) if self.ordeal.name == "block" else self.atom.patience_s

    @property
    def weight(self) -> float:  # type: ignore[override]
        return self.atom.weight

    @property
    def label(self) -> str:
        return self.atom.label

    @property
    def about(self) -> str:
        return self.atom.about

    async def do(self, cx: Any) -> None:
        name, task = self.ordeal.name, cx.task
        assert isinstance(task, Task)
        self.ordeal.met.set()
        if name == "fail":
            raise IoError("the ordeal", "comes first")
        if name == "stall" or (name == "block" and task.cancellable):
            if name == "block":
                task.cancel()
            await asyncio.Event().wait()
        if name == "cancel":
            task.cancel()
        await self.atom.do(cx)
        if name == "spoil":
            raise IoError("the ordeal", "comes last")
        if name == "linger":
            raise TimeoutError
