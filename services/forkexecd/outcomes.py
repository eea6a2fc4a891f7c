# SPDX-License-Identifier: Apache-2.0
"""The last replies by message id, so that a request that is sent again does not run its program again.

It lives in memory: across a restart of forkexecd nothing is remembered.
"""

from collections import OrderedDict


class RecentOutcomes:
    """As many of the newest replies as `max_replies` and `max_bytes` allow; the newest one always stays."""

    def __init__(self, *, max_replies: int = 1000, max_bytes: int = 64 << 20) -> None:
        self._max_replies, self._max_bytes = max_replies, max_bytes
        self._replies: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0

    def recall(self, message_id: str) -> bytes | None:
        """The reply to the first request of that id, if it is still remembered."""
        return self._replies.get(message_id)

    async def remember(self, message_id: str, reply: bytes) -> None:
        """Keep a reply, and forget the oldest ones beyond the limits."""
        self._bytes += len(reply) - len(self._replies.pop(message_id, b""))
        self._replies[message_id] = reply
        while len(self._replies) > 1 and (len(self._replies) > self._max_replies or self._bytes > self._max_bytes):
            _, oldest = self._replies.popitem(last=False)
            self._bytes -= len(oldest)
