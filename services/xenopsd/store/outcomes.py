# SPDX-License-Identifier: Apache-2.0
"""The replies to requests that change something, by message id: who asks again gets the first one.

They stay in the file, in which one is found in some microseconds; only the newest are in memory, so that neither a day's
requests nor the start after it cost more than the last few thousand.
"""

import logging
import time
from collections.abc import Callable

from xenops.errors import IoError
from xenopsd.store.database import Database
from xenopsd.store.seal import Damaged, seal, unseal
from xenopsd.store.transaction import Transaction

log = logging.getLogger(__name__)

NEWEST = 4096  # those that may not be written yet are among them
_REMEMBER = "INSERT OR REPLACE INTO outcomes VALUES (?, ?, ?)"
_RECALL = "SELECT reply FROM outcomes WHERE message_id = ?"
_EXPIRE = "DELETE FROM outcomes WHERE at < ?"


class Outcomes:
    """Each is kept for `keep_s`, by a clock that nobody sets: a jump of the time of day forgets nothing.

    It goes on from the time of day at the start, or from the newest outcome where that is later. `has_task` says whether a
    message id stands in the journal beside its task: then its outcome is durable already.
    """

    def __init__(
        self, database: Database, *, keep_s: float, has_task: Callable[[str], bool] = lambda message_id: False
    ) -> None:
        self._database, self._keep_s, self._has_task = database, keep_s, has_task
        [(newest,)] = database.rows("SELECT max(at) FROM outcomes")
        self._ahead_s = max(time.time(), newest or 0) - time.monotonic()
        self._newest: dict[str, tuple[int, bytes]] = {}  # since when, oldest first

    def recall(self, message_id: str) -> bytes | None:
        """See `xenops.rpc.Outcomes`. Raises `IoError`."""
        known = self._newest.get(message_id)
        if known is not None:
            return known[1]
        row = self._database.row(_RECALL, message_id)
        try:
            return None if row is None else unseal(row[0], *_reply(message_id))
        except Damaged as error:
            log.error("the outcome of request %s is damaged and forgotten: %s", message_id, error)
            return None

    def join(self, transaction: Transaction, message_id: str, reply: bytes) -> None:
        """Have an outcome written with the change that it tells of: no crash comes between the two."""
        now = self._now()
        transaction.write(_REMEMBER, message_id, now, seal(reply, *_reply(message_id)))
        transaction.then(lambda: self._keep(message_id, now, reply))

    async def remember(self, message_id: str, reply: bytes) -> None:
        """See `xenops.rpc.Outcomes`; a store that cannot be written owes it, and keeps nobody waiting."""
        known = self._newest.get(message_id)
        if known is not None and known[1] == reply:
            return  # it was written with its change
        now = self._now()
        self._keep(message_id, now, reply)
        has_task = self._has_task(message_id)
        if self._database.owes and not has_task:
            return  # nothing that is asked for is done now: however often it is refused, no more is owed for that
        self._database.write(_REMEMBER, message_id, now, seal(reply, *_reply(message_id)))
        if has_task:
            return
        try:
            await self._database.commit()
        except IoError as fault:
            log.warning("the outcome of request %s is not durable yet: %s", message_id, fault)

    def expire(self) -> None:
        """Forget what is older than `keep_s`."""
        limit = self._now() - int(self._keep_s)
        self._newest = {message_id: known for message_id, known in self._newest.items() if known[0] >= limit}
        self._database.write(_EXPIRE, limit)

    def _keep(self, message_id: str, now: int, reply: bytes) -> None:
        self._newest.pop(message_id, None)  # it goes to the end
        self._newest[message_id] = now, reply
        if len(self._newest) > NEWEST:
            del self._newest[next(iter(self._newest))]

    def _now(self) -> int:
        return int(time.monotonic() + self._ahead_s)


def _reply(message_id: str) -> tuple[str, ...]:
    return "outcomes", "reply", message_id
