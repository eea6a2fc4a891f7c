# SPDX-License-Identifier: Apache-2.0
"""Load: one connection that keeps a number of requests in flight against a queue, and counts the replies.

Usage: load.py URL QUEUE IN_FLIGHT SECONDS. Prints requests per second. The same program loads both sides of a
comparison, so what it costs itself cancels out as far as it can.
"""

import sys
import time

import msgspec
import pika
from pika.adapters.select_connection import SelectConnection
from pika.channel import Channel

REPLY_TO = "amq.rabbitmq.reply-to"
BODY = msgspec.msgpack.encode({"method": "query", "params": {}})
WARM_S = 0.3


def main(url: str, queue: str, in_flight: int, seconds: float) -> float:
    """Requests answered per second, after a moment of warming up."""
    properties = pika.BasicProperties(reply_to=REPLY_TO, correlation_id="1", content_type="application/msgpack")
    began = time.perf_counter()
    answered, counting_since = 0, 0.0
    rate = 0.0

    def opened(connection: SelectConnection) -> None:
        connection.channel(on_open_callback=begin)

    def begin(channel: Channel) -> None:
        channel.basic_consume(REPLY_TO, received, auto_ack=True, callback=lambda _: fill(channel))

    def fill(channel: Channel) -> None:
        for _ in range(in_flight):
            channel.basic_publish("", queue, BODY, properties)

    def received(channel: Channel, method: object, properties_: object, body: bytes) -> None:
        nonlocal answered, counting_since, rate
        now = time.perf_counter()
        if not counting_since and now - began > WARM_S:
            counting_since = now
        if counting_since:
            answered += 1
            if now - counting_since >= seconds:
                rate = answered / (now - counting_since)
                connection.ioloop.stop()
                return
        channel.basic_publish("", queue, BODY, properties)

    connection = SelectConnection(pika.URLParameters(url), on_open_callback=opened)
    connection.ioloop.start()
    return rate


if __name__ == "__main__":
    print(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), float(sys.argv[4])))
