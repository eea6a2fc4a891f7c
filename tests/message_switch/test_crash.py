# SPDX-License-Identifier: Apache-2.0
"""A switch that is killed loses nothing that it has confirmed; one that is stopped loses nothing at all."""

import random
import signal
import threading
from typing import Any

import pika
import pytest
from pika import BasicProperties, DeliveryMode, exceptions

PERSISTENT = BasicProperties(delivery_mode=DeliveryMode.Persistent.value)


def channel_of(process: Any) -> Any:
    channel = pika.BlockingConnection(pika.URLParameters(process.url)).channel()
    channel.confirm_delivery()
    return channel


def drain(channel: Any, queue: str) -> list[int]:
    found = []
    while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
        assert got[0].redelivered
        found.append(int(got[2].split(b" ")[0]))
    return found


class Publisher(threading.Thread):
    """Publishes persistent messages, and now and then takes one, until the switch is gone."""

    def __init__(self, channel: Any, target: int) -> None:
        super().__init__()
        self.channel = channel
        self.target = target
        self.confirmed: list[int] = []
        self.acknowledged: list[int] = []
        self.enough = threading.Event()

    def run(self) -> None:
        try:
            for n in range(100000):
                exchange, key = (("", "work"), ("amq.topic", "work.now"))[n % 2]
                body = b"%d %s" % (n, b"x" * 100)
                self.channel.basic_publish(exchange, key, body, PERSISTENT, mandatory=True)
                self.confirmed.append(n)
                if n % 3 == 0:
                    method, _, body = self.channel.basic_get("work")
                    self.acknowledged.append(int(body.split(b" ")[0]))
                    self.channel.basic_ack(method.delivery_tag)
                if n == self.target:
                    self.enough.set()
        except (exceptions.AMQPError, OSError):
            return  # that is what the test is about


@pytest.mark.parametrize("seed", range(3))
def test_killed_under_load(process: Any, seed: int) -> None:
    # A small journal, so that it is also rewritten again and again while this goes on.
    process.start("--journal-rewrite", "20000")
    setup = channel_of(process)
    setup.queue_declare("work", durable=True)
    setup.queue_bind("work", "amq.topic", "work.#")
    setup.connection.close()
    publisher = Publisher(channel_of(process), random.Random(seed).randrange(40, 150))
    publisher.start()
    assert publisher.enough.wait(30)
    assert process.stop(signal.SIGKILL) == -signal.SIGKILL
    publisher.join(10)
    process.start()
    channel = channel_of(process)
    after = drain(channel, "work")
    channel.connection.close()
    assert after == sorted(after)
    assert set(publisher.confirmed) - set(publisher.acknowledged) <= set(after)
    assert len(after) == len(set(after))


def test_stopped_and_started_again(process: Any) -> None:
    process.start()
    channel = channel_of(process)
    channel.exchange_declare("mine", "topic", durable=True)
    channel.queue_declare("kept", durable=True, arguments={"x-max-length": 100})
    channel.queue_bind("kept", "mine", "a.*")
    channel.queue_declare("gone", exclusive=True)
    for n in range(10):
        channel.basic_publish("mine", "a.b", b"%d" % n, PERSISTENT, mandatory=True)
    channel.basic_publish("", "kept", b"10")  # not persistent: not kept
    for _ in range(4):
        method, _, _ = channel.basic_get("kept")
        channel.basic_ack(method.delivery_tag)
    held, _, _ = channel.basic_get("kept")  # never acknowledged: comes again
    assert held.message_count == 6
    channel.connection.close()
    assert process.stop() == 0
    process.start()
    channel = channel_of(process)
    channel.queue_declare("kept", durable=True, arguments={"x-max-length": 100})
    assert drain(channel, "kept") == [4, 5, 6, 7, 8, 9]
    channel.basic_publish("mine", "a.b", b"11", PERSISTENT, mandatory=True)
    with pytest.raises(exceptions.ChannelClosedByBroker):
        channel.queue_declare("gone", passive=True)
    channel.connection.close()


def test_one_journal_one_switch(process: Any) -> None:
    process.start()
    second = type(process)(process.data)
    first_port = (process.data / "port").read_text()
    with pytest.raises(AssertionError, match="ended at once"):
        second.start()
    (process.data / "port").write_text(first_port)
    channel_of(process).connection.close()


def test_clients_are_told_before_it_goes(process: Any) -> None:
    process.start()
    connection = channel_of(process).connection
    assert process.stop() == 0
    with pytest.raises(exceptions.ConnectionClosedByBroker) as told:
        connection.process_data_events(time_limit=5)
    assert told.value.reply_code == 320
