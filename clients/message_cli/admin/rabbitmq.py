# SPDX-License-Identifier: Apache-2.0
"""RabbitMQ, through the HTTP API of its management plugin: AMQP itself cannot list queues.

RabbitMQ does not know how old a message is. It shows what the first one that waits in a classic queue says of that in its
`timestamp`, as requests of ours do; of all others `oldest_s` is absent. Nor does it know who consumed in the past: `served` is true
when the queue has consumers now or its statistics tell of deliveries.
"""

import asyncio
import base64
import time
import urllib.error
import urllib.request
from urllib.parse import quote, unquote, urlsplit

import msgspec

from xenops.errors import BadRequest, FailedToContactRemoteService
from xenops.interfaces.switch import QueueStat
from xenops.types.record import UNSET

PORT = 15672
_TIMEOUT_S = 10.0
_LARGEST = 64 << 20
_NAME = "RabbitMQ's management plugin"


class Statistics(msgspec.Struct):
    """What consumers have done with a queue; a broker that keeps no statistics has none."""

    deliver_get: int = 0
    ack: int = 0
    deliver_no_ack: int = 0


class Row(msgspec.Struct):
    """A queue as the management API has it; all other fields are left out."""

    name: str
    messages_ready: int = 0
    messages_unacknowledged: int = 0
    consumers: int = 0
    durable: bool = False
    exclusive: bool = False
    message_stats: Statistics | None = None
    head_message_timestamp: int | str | None = None  # in seconds; whoever published it may have written anything


def parse_queues(untrusted: bytes) -> list[Row]:
    """The answer of /api/queues; raises `FailedToContactRemoteService` for anything else."""
    try:
        return msgspec.json.decode(untrusted, type=list[Row])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise FailedToContactRemoteService(f"{_NAME} (it answered something else)") from None


def stat(row: Row, now: float) -> QueueStat:
    """The row in our words."""
    counts, untrusted = row.message_stats, row.head_message_timestamp
    return QueueStat(
        name=row.name,
        ready=row.messages_ready,
        unacked=row.messages_unacknowledged,
        consumers=row.consumers,
        durable=row.durable,
        exclusive=row.exclusive,
        served=row.consumers > 0 or (counts is not None and counts.deliver_get > 0),
        oldest_s=now - untrusted if isinstance(untrusted, int) and 0 < untrusted <= now else UNSET,
        settled=UNSET if counts is None else counts.ack + counts.deliver_no_ack,
    )


class RabbitAdmin:
    """See `Admin`; `amqp_url` gives user, password and virtual host, `management` the place, without a password."""

    def __init__(self, amqp_url: str, management: str = "") -> None:
        parts = urlsplit(amqp_url)
        user, password = unquote(parts.username or "guest"), unquote(parts.password or "guest")
        token = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        self._headers = {"Authorization": f"Basic {token}", "Accept": "application/json"}
        host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname or "localhost"
        self._root = (management or f"http://{host}:{PORT}").rstrip("/")
        if urlsplit(self._root).scheme not in ("http", "https"):
            raise BadRequest("management", "write http://host:15672")
        self._vhost = quote(unquote(parts.path[1:]) or "/", safe="")

    async def queues(self, prefix: str) -> list[QueueStat]:
        untrusted = await asyncio.to_thread(self._get, f"/api/queues/{self._vhost}")
        found = (stat(row, time.time()) for row in parse_queues(untrusted) if row.name.startswith(prefix))
        return sorted(found, key=lambda queue: queue.name)

    def _get(self, path: str) -> bytes:
        request = urllib.request.Request(self._root + path, headers=self._headers)
        try:
            with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
                body: bytes = answer.read(_LARGEST)
                return body
        except urllib.error.HTTPError as error:
            error.close()
            raise FailedToContactRemoteService(f"{_NAME} at {self._root} (it answered {error.code})") from None
        except OSError as error:
            raise FailedToContactRemoteService(
                f"{_NAME} at {self._root} ({error}); enable it or say --management"
            ) from None
