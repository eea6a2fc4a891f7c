# SPDX-License-Identifier: Apache-2.0
"""A client made of pika and nothing of ours, and a stack for it to attack."""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pika

from deploy.local.stack import Stack
from tests.system.test_stack import with_stack
from tests.xenopsd.machines import plain_vm
from xenops.client import Xenops
from xenops.where import Where

JSON, MSGPACK = "application/json", "application/msgpack"
REPLIES = "amq.rabbitmq.reply-to"


class Foreigner:
    """A client made of pika and nothing of ours."""

    def __init__(self, found: Where) -> None:
        self.found, self.queue = found, found.queue
        self.connection = pika.BlockingConnection(pika.URLParameters(found.amqp))
        self.channel = self.connection.channel()
        self.replies: dict[str | None, list[bytes]] = {}
        self.channel.basic_consume(REPLIES, self._receive, auto_ack=True)

    def _receive(self, channel: Any, method: Any, properties: pika.BasicProperties, body: bytes) -> None:
        self.replies.setdefault(properties.correlation_id, []).append(body)

    def send(self, body: bytes, content_type: str | None = MSGPACK, **properties: Any) -> None:
        properties = {"reply_to": REPLIES, **properties}
        self.channel.basic_publish("", self.queue, body, pika.BasicProperties(content_type=content_type, **properties))

    def wait(self, wanted: int) -> None:
        """Until that many replies came in all."""
        for _ in range(100):
            if sum(map(len, self.replies.values())) >= wanted:
                return
            self.connection.process_data_events(time_limit=0.2)
        raise AssertionError(f"{wanted} replies were due, these came: {sorted(map(str, self.replies))[-5:]}")

    def ask(self, method: str, params: Any = {}, **properties: Any) -> tuple[Any, dict[str, Any] | None]:  # noqa: B006
        """Result and fault of one request in MessagePack."""
        return self.ask_bytes(msgspec.msgpack.encode({"method": method, "params": params}), **properties)

    def ask_bytes(self, body: bytes, **properties: Any) -> tuple[Any, dict[str, Any] | None]:
        self.replies.clear()
        self.send(body, **{"correlation_id": "c", **properties})
        self.wait(1)
        (reply,) = self.replies["c"]
        told = msgspec.msgpack.decode(reply)
        return told.get("result"), told.get("fault")


def on_stack(path: Path, attack: Any) -> None:
    async def work(stack: Stack, found: Where, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))

        def run() -> None:
            foreigner = Foreigner(found)
            try:
                attack(foreigner)
            finally:
                foreigner.connection.close()

        await asyncio.to_thread(run)
        assert (await xenops.query()).queue == found.queue
        assert all(it.vm.id for it in await xenops.VM.list())
        await xenops.Task.list()

    with_stack(path, work)
