# SPDX-License-Identifier: Apache-2.0
"""What a command asks of a broker beyond AMQP: which queues there are, and how each of them is.

Promises that each implementation keeps: queues come by name, `ready`, `unacked` and `consumers` are those of a moment no
longer ago than the broker's own figures; looking changes nothing.
"""

from typing import Protocol

from xenops.interfaces.switch import QueueStat


class Admin(Protocol):
    """An administrator's eyes."""

    async def queues(self, prefix: str) -> list[QueueStat]:
        """The queues whose names begin with `prefix`, by name; raises `ServiceFault`s."""
