# SPDX-License-Identifier: Apache-2.0
"""How a test asks a broker through pika, and waits for what it expects."""

import time
from collections.abc import Callable
from typing import Any

import pika
from pika.adapters.blocking_connection import BlockingChannel

Connect = Callable[[], pika.BlockingConnection]
Durable = Callable[..., str]
REPLY_TO = "amq.rabbitmq.reply-to"


def until(connection: pika.BlockingConnection, ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 10
    while not ready():
        connection.process_data_events(time_limit=0.05)
        assert time.monotonic() < deadline, "it never came"


def fetch_count(channel: BlockingChannel, queue: str) -> int:
    return int(channel.queue_declare(queue, passive=True).method.message_count)


def fetch(channel: BlockingChannel, queue: str, *, auto_ack: bool = True) -> tuple[Any, Any, bytes]:
    """basic.get, until there is something."""
    deadline = time.monotonic() + 10
    while True:
        method, properties, body = channel.basic_get(queue, auto_ack=auto_ack)
        if method is not None:
            return method, properties, body
        assert time.monotonic() < deadline, "nothing came"
        channel.connection.process_data_events(time_limit=0.01)
