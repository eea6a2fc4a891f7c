# SPDX-License-Identifier: Apache-2.0
"""The peer of `query`: a bare pika server that sends every request back, as small as such a thing can be.

Usage: echo.py URL QUEUE. It prints "ready" and runs until it is stopped.
"""

import sys

import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel


def main(url: str, queue: str) -> None:
    """Serve until stopped."""

    def opened(connection: SelectConnection) -> None:
        connection.channel(on_open_callback=declare)

    def declare(channel: Channel) -> None:
        channel.basic_qos(prefetch_count=256)
        channel.queue_declare(queue, durable=True, callback=lambda _: consume(channel))

    def consume(channel: Channel) -> None:
        channel.basic_consume(queue, answer)
        print("ready", flush=True)

    def answer(
        channel: Channel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        reply = pika.BasicProperties(correlation_id=properties.correlation_id, content_type=properties.content_type)
        channel.basic_publish("", properties.reply_to, body, reply)
        channel.basic_ack(method.delivery_tag)

    connection = SelectConnection(pika.URLParameters(url), on_open_callback=opened)
    connection.ioloop.start()


if __name__ == "__main__":
    main(*sys.argv[1:])
