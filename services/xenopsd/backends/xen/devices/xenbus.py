# SPDX-License-Identifier: Apache-2.0
"""The handshake of a split driver: what a front end and its back end say to each other in their `state` nodes. Pure.

    back end                               front end
    1 INITIALISING   nodes are there       1 INITIALISING   nodes are there; no driver has looked yet
    2 INIT_WAIT      features are told     3 INITIALISED    rings and event channels are told
    4 CONNECTED      rings are mapped      4 CONNECTED      in use
    5 CLOSING        somebody wants out    5 CLOSING        flushes, or says why not
    6 CLOSED         rings are let go of   6 CLOSED         done

    back    INITIALISING --> INIT_WAIT --> CONNECTED --> CLOSING --> CLOSED
                                ^  front is INITIALISED |               |
                                +------- online, and front begins anew -+

A tool stack writes both folders with INITIALISING, ends a device with `online = 0` and the back end CLOSING, and
removes the folders once the back end is CLOSED. A guest can write anything into its own folder at any time.
Source: xen/include/public/io/xenbus.h, and blkif.h and netif.h beside it.
"""

from enum import IntEnum
from types import MappingProxyType


class State(IntEnum):
    """What one end says of itself; UNKNOWN is an end that is not there, or that says what is no state."""

    UNKNOWN = 0
    INITIALISING = 1
    INIT_WAIT = 2
    INITIALISED = 3
    CONNECTED = 4
    CLOSING = 5
    CLOSED = 6
    RECONFIGURING = 7
    RECONFIGURED = 8


S = State

# Where a well-behaved end can go from where it is; it can vanish from anywhere.
BACK_END = MappingProxyType(
    {
        S.UNKNOWN: frozenset({S.INITIALISING}),
        S.INITIALISING: frozenset({S.INIT_WAIT, S.CLOSING, S.CLOSED}),
        S.INIT_WAIT: frozenset({S.INITIALISED, S.CONNECTED, S.CLOSING, S.CLOSED}),
        S.INITIALISED: frozenset({S.CONNECTED, S.CLOSING, S.CLOSED}),
        S.CONNECTED: frozenset({S.RECONFIGURING, S.CLOSING, S.CLOSED}),
        S.CLOSING: frozenset({S.CLOSED, S.CONNECTED}),  # back again: the guest refused, and keeps the device
        S.CLOSED: frozenset({S.INITIALISING, S.INIT_WAIT}),  # the guest's next kernel begins anew
        S.RECONFIGURING: frozenset({S.RECONFIGURED, S.CLOSING, S.CLOSED}),
        S.RECONFIGURED: frozenset({S.CONNECTED, S.CLOSING, S.CLOSED}),
    }
)
FRONT_END = MappingProxyType(
    {
        S.UNKNOWN: frozenset({S.INITIALISING}),
        S.INITIALISING: frozenset({S.INITIALISED, S.CONNECTED, S.CLOSING, S.CLOSED}),
        S.INIT_WAIT: frozenset({S.INITIALISED, S.CONNECTED, S.CLOSING, S.CLOSED}),
        S.INITIALISED: frozenset({S.CONNECTED, S.CLOSING, S.CLOSED}),
        S.CONNECTED: frozenset({S.RECONFIGURING, S.INITIALISED, S.CLOSING, S.CLOSED}),
        S.CLOSING: frozenset({S.CLOSED}),
        S.CLOSED: frozenset({S.INITIALISING}),
        S.RECONFIGURING: frozenset({S.RECONFIGURED, S.CLOSING, S.CLOSED}),
        S.RECONFIGURED: frozenset({S.CONNECTED, S.CLOSING, S.CLOSED}),
    }
)


def parse(untrusted: str | None) -> State:
    """What an end says, whatever it says."""
    if untrusted is None or len(untrusted) != 1 or untrusted not in "12345678":
        return State.UNKNOWN
    return State(int(untrusted))


def is_ready(back: State) -> bool:
    """The back end has its device and waits for the guest, or has met it already."""
    return back in (S.INIT_WAIT, S.INITIALISED, S.CONNECTED, S.RECONFIGURING, S.RECONFIGURED)


def is_ending(back: State) -> bool:
    """The back end has given up its device, or is about to."""
    return back in (S.CLOSING, S.CLOSED)


def has_ended(back: State) -> bool:
    """The back end holds nothing of the guest any more."""
    return back in (S.CLOSED, S.UNKNOWN)


def in_use(front: State) -> bool:
    """A driver in the guest has taken the device and not let go of it: it must be asked."""
    return front not in (S.UNKNOWN, S.INITIALISING, S.INIT_WAIT, S.CLOSED)


def drawing() -> str:
    """The table of the back end's moves, a line a state."""
    return "\n".join(
        f"{state.name:<14} -> {', '.join(sorted(after.name for after in BACK_END[state]))}" for state in BACK_END
    )
