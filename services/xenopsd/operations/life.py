# SPDX-License-Identifier: Apache-2.0
"""A machine's power states and the operations that move it between them, as one table.

    Halted -- start --> Paused <-- pause, unpause --> Running -- suspend --> Suspended
       ^                  |                              |                       |
       |------------------|----- shutdown, destroy ------|------ shutdown -------|
                          ^------------------------------^------- resume --------|

An operation takes what it `needs` from here; docs/states/machine.md is drawn from here; a test plays every row from every state.
What a guest does by itself is told by `check`.
"""

from dataclasses import dataclass

from xenops.types.vm import PowerState

_HALTED, _PAUSED, _RUNNING, _SUSPENDED = (
    PowerState.HALTED,
    PowerState.PAUSED,
    PowerState.RUNNING,
    PowerState.SUSPENDED,
)
LIVE = (_RUNNING, _PAUSED)


@dataclass(frozen=True)
class Move:
    """From which states an operation moves a machine, and to where; the first origin is the one a refusal names."""

    origins: tuple[PowerState, ...]
    ends: tuple[PowerState, ...]
    elsewhere: str = ""  # what it does in any other state; empty: it is refused before anything happens


MOVES = {
    "VM.start": Move((_HALTED,), (_PAUSED, _RUNNING)),
    "VM.create": Move((_HALTED, _SUSPENDED), (_PAUSED,), "fails: there is a domain already"),
    "VM.unpause": Move((_PAUSED,), (_RUNNING,), "nothing to do when Running; fails when there is no domain"),
    "VM.pause": Move((_RUNNING,), (_PAUSED,), "nothing to do when Paused; fails when there is no domain"),
    "VM.reboot": Move(LIVE, (_RUNNING,)),
    "VM.checkpoint": Move((_RUNNING,), (_RUNNING,)),
    "VM.suspend": Move((_RUNNING,), (_SUSPENDED,)),
    "VM.resume": Move((_SUSPENDED, _HALTED), (_PAUSED, _RUNNING)),
    # Cleanly only from where there is a guest to ask.
    "VM.shutdown": Move((*LIVE, _SUSPENDED), (_HALTED,), "clears up; the machine stays what it is"),
    "VM.destroy": Move(LIVE, (_HALTED,), "nothing to do"),
}


def needed(operation: str) -> tuple[PowerState, ...]:
    """The states without which the operation is refused."""
    move = MOVES[operation]
    return () if move.elsewhere else move.origins
