# SPDX-License-Identifier: Apache-2.0
"""How a test asks a broker through pika, and waits for what it expects."""

import socket
import time
from collections.abc import Callable
from typing import Any

import pika
from pika import frame, spec
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


def silence(url: str) -> None:
    """Agree on heartbeats each second, send none, and return when that has been noticed: when the broker hangs up."""
    parameters = pika.URLParameters(url)
    credentials = f"\0{parameters.credentials.username}\0{parameters.credentials.password}"
    with socket.create_connection((parameters.host, parameters.port)) as peer:
        peer.settimeout(30)
        peer.sendall(b"AMQP\0\0\x09\x01")
        for method in (
            spec.Connection.StartOk({}, "PLAIN", credentials),
            spec.Connection.TuneOk(10, 131072, 1),
            spec.Connection.Open("/"),
        ):
            peer.recv(1 << 16)
            peer.sendall(frame.Method(0, method).marshal())
        try:
            while peer.recv(1 << 16):
                continue
        except ConnectionResetError:
            return
