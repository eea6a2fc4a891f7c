# SPDX-License-Identifier: Apache-2.0
"""A plan is data: steps in a row, side by side, or on a best-effort basis, and the points of no return among them.

Pure: nothing is done here. `perform` walks a plan, `draw` prints it, tests compare what it prints.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True)
class Atom:
    """One step. A subclass has `do`, and, where putting back means something, an idempotent `undo` beside it."""

    weight: ClassVar[float] = 1.0  # its share of the task's progress
    timeout_s: ClassVar[float] = 300.0  # longer than this is a failure
    undo_s: ClassVar[float] = 60.0  # longer than this its undo is not waited for: the check after it mends the rest
    patience_s: ClassVar[float] = (
        4.0  # how long a cancel lets it go on before it is cut; 0: it waits for a guest or a program
    )
    pivot: ClassVar[str] = ""  # why there is no way back from a moment within it, when there is none

    async def do(self, cx: Any) -> None:
        """Take the step; raises a fault when it could not be taken."""
        raise NotImplementedError(type(self).__name__)

    @property
    def label(self) -> str:
        """How the step reads: `vif.Plug`."""
        return f"{type(self).__module__.rpartition('.')[2]}.{type(self).__name__}"

    @property
    def about(self) -> str:
        """What the step is about, such as a device's id; empty for the VM itself."""
        return ""


@dataclass(frozen=True)
class Serial:
    """One after the other."""

    steps: tuple["Plan", ...]


@dataclass(frozen=True)
class Parallel:
    """Side by side; every branch ends before the first failure is raised."""

    steps: tuple["Plan", ...]


@dataclass(frozen=True)
class BestEffort:
    """A failure is logged, and the plan goes on."""

    step: "Plan"


@dataclass(frozen=True)
class Pivot:
    """A point of no return: nothing before it is undone any more."""

    why: str


Plan = Atom | Serial | Parallel | BestEffort | Pivot
NOTHING = Serial(())


def serial(*steps: Plan) -> Plan:
    """Steps in a row, rows within it flattened and empty ones left out."""
    flat: list[Plan] = []
    for step in steps:
        flat.extend(step.steps if isinstance(step, Serial) else (step,))
    return flat[0] if len(flat) == 1 else Serial(tuple(flat))


def parallel(*steps: Plan) -> Plan:
    """Steps side by side, empty ones left out."""
    kept = tuple(step for step in steps if step != NOTHING)
    if not kept:
        return NOTHING
    return kept[0] if len(kept) == 1 else Parallel(kept)


def atoms(plan: Plan) -> Iterator[Atom]:
    """The steps of a plan, in the order in which they would be begun."""
    return (part for part in _in_order(plan) if isinstance(part, Atom))


def cancellable(plan: Plan) -> tuple[list[Atom], str]:
    """The steps at which a plan may be cancelled, and why it may not after them; empty: to the end."""
    found: list[Atom] = []
    for part in _in_order(plan):
        if isinstance(part, Pivot):
            return found, part.why
        found.append(part)
        if part.pivot:
            return found, part.pivot
    return found, ""


def _in_order(plan: Plan) -> Iterator[Atom | Pivot]:
    match plan:
        case Serial(steps) | Parallel(steps):
            for step in steps:
                yield from _in_order(step)
        case BestEffort(step):
            yield from _in_order(step)
        case _:
            yield plan


def weight(plan: Plan) -> float:
    """The sum of the weights of a plan's steps."""
    return sum(atom.weight for atom in atoms(plan))


def draw(plan: Plan, indent: str = "") -> str:
    """The plan as people read it, a line a step."""
    match plan:
        case Atom():
            back = "   (can go back)" if hasattr(plan, "undo") else f"   (---- {plan.pivot})" if plan.pivot else ""
            about = f" {plan.about}" if plan.about else ""
            return f"{indent}{plan.label}{about}{back}\n"
        case Serial(steps):
            return "".join(draw(step, indent) for step in steps)
        case Parallel(steps):
            branches = (
                f"{indent}  -\n{draw(s, indent + '    ')}" if isinstance(s, Serial) else draw(s, indent + "  ")
                for s in steps
            )
            return f"{indent}together:\n" + "".join(branches)
        case BestEffort(step):
            return f"{indent}if possible:\n{draw(step, indent + '  ')}"
        case Pivot(why):
            return f"{indent}---- {why}\n"
