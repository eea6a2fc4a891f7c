# SPDX-License-Identifier: Apache-2.0
"""What can be asked of the embedded message switch itself: how its queues are.

Its queue has a reserved name, so that nobody else can declare, read or delete it; only an administrator may write to it.
"""

from typing import ClassVar, Protocol

from xenops.idl import Interface, rpc
from xenops.types.record import UNSET, Maybe, Record

SWITCH_QUEUE = "amq.switch"


class QueueStat(Record, frozen=True, kw_only=True):
    """A queue at one moment: what waits, what is in a consumer's hands, and who is there to take it.

    `oldest_s` is the age of the oldest of both, in seconds, where the broker knows it; `served` says whether anybody has
    ever consumed from the queue, as far as the broker remembers; `settled` counts what consumers are done with.
    """

    name: str
    ready: int = 0
    unacked: int = 0
    consumers: int = 0
    durable: bool = False
    exclusive: bool = False
    served: bool = False
    oldest_s: Maybe[float] = UNSET
    settled: Maybe[int] = UNSET


class SWITCH(Interface, Protocol):
    """The embedded switch, looked at by an administrator."""

    name: ClassVar[str] = "SWITCH"

    @rpc(reads=True)
    async def queues(self, prefix: str = "") -> list[QueueStat]:
        """List the queues whose names begin with `prefix`, by name."""
