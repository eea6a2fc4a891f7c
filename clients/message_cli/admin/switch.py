# SPDX-License-Identifier: Apache-2.0
"""The embedded switch, which answers `SWITCH` over AMQP itself."""

from xenops.bus.port import Bus
from xenops.interfaces.switch import SWITCH, SWITCH_QUEUE, QueueStat
from xenops.rpc import stub

_REPLY_S = 10.0


class SwitchAdmin:
    """See `Admin`."""

    def __init__(self, bus: Bus) -> None:
        self._switch = stub(SWITCH, bus, SWITCH_QUEUE, timeout_s=_REPLY_S, debug_info="message-cli")

    async def queues(self, prefix: str) -> list[QueueStat]:
        return await self._switch.queues(prefix)
