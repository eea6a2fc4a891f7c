# SPDX-License-Identifier: Apache-2.0
"""A subscriber that stands still, a dead one, and one who asks and never reads: what the switch holds for them has a bound."""

import asyncio
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pika
import pytest
from pika import BasicProperties

from message_switch.switch import HIGH_WATER, REPLY_WATER
from tests.brokers import free_port
from tests.message_switch.conftest import SwitchProcess
from tests.scale.sizes import PATIENCE_S
from xenops.asking import stub
from xenops.bus.amqp import AmqpBus
from xenops.bus.port import EVENTS_EXCHANGE
from xenops.interfaces.switch import SWITCH, SWITCH_QUEUE, QueueStat

pytestmark = pytest.mark.timeout(PATIENCE_S + 10)
LISTENER = Path(__file__).with_name("listener.py")
EVENTS, SIZE, KEPT = 30_000, 2048, 10_000
REPLIES, REPLY_SIZE = 100, 1 << 20
HELD_BY_THE_KERNEL = 16 << 20  # at most, of a connection, on its way


class Watched(SwitchProcess):
    """A switch whose figures can be read."""

    def start(self, *flags: str) -> None:
        self.metrics = free_port()
        super().start("--metrics-port", str(self.metrics), *flags)

    def figure(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics") as answer:
            lines = answer.read().decode().splitlines()
        return float(next(line for line in lines if line.startswith(f"message_switch_{name} ")).split()[1])

    def queues(self) -> dict[str, QueueStat]:
        """Those that are somebody's alone."""

        async def ask() -> list[QueueStat]:
            bus = AmqpBus(self.url)
            await bus.connect(30.0)
            try:
                return await stub(SWITCH, bus, SWITCH_QUEUE).queues()
            finally:
                await bus.close()

        return {it.name: it for it in asyncio.run(ask()) if it.exclusive}


@pytest.fixture
def switch(tmp_path: Path) -> Iterator[Watched]:
    found = Watched(tmp_path)
    found.start()
    yield found
    assert found.stop() == 0


@contextmanager
def standing_still(url: str) -> Iterator["subprocess.Popen[str]"]:
    """A subscriber to everything, whose process has been stopped."""
    listener = subprocess.Popen(
        [sys.executable, str(LISTENER), url, "#"], stdout=subprocess.PIPE, text=True, env=os.environ
    )
    try:
        assert listener.stdout is not None
        assert listener.stdout.readline() == "ready\n"
        listener.send_signal(signal.SIGSTOP)
        yield listener
    finally:
        listener.kill()
        listener.communicate()


def publish(url: str, *bodies: bytes) -> None:
    """Events, and return when the switch has taken them all."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    for body in bodies:
        channel.basic_publish(EVENTS_EXCHANGE, "h.i.vm.x", body)
    channel.queue_declare("", exclusive=True)  # which comes after them
    connection.close()


def test_a_slow_subscriber_misses_the_oldest_and_gets_the_newest(switch: Watched) -> None:
    with standing_still(switch.url) as listener:
        for _ in range(EVENTS // 1000):
            publish(switch.url, *[b"x" * SIZE] * 1000)
            assert switch.figure("queued_bytes") <= KEPT * (SIZE + 512)
            assert (
                switch.figure("unread_bytes") <= 2 * HIGH_WATER + 2 * SIZE
            )  # of what it has taken, and of what it is about to
        assert [it.ready for it in switch.queues().values()] == [KEPT], "a full queue, or else this shows nothing"
        publish(switch.url, b"last")
        listener.send_signal(signal.SIGCONT)
        assert listener.stdout is not None
        got = int(listener.stdout.readline())
        assert KEPT <= got < EVENTS
        assert got - KEPT <= (HELD_BY_THE_KERNEL + HIGH_WATER) / SIZE
        assert listener.wait(30) == 0


def test_a_dead_subscriber_is_given_up_with_all_that_was_kept_for_it(switch: Watched) -> None:
    with standing_still(f"{switch.url}?heartbeat=1"):
        assert len(switch.queues()) == 1
        publish(switch.url, *[b"x" * SIZE] * 5000)
        while switch.queues():  # until its silence has lasted for too long
            time.sleep(0.1)
        assert switch.figure("queued_bytes") == 0
        assert switch.figure("unread_bytes") <= SIZE


def test_who_does_not_read_its_replies_gets_no_more_of_them(switch: Watched) -> None:
    asking, answering = (pika.BlockingConnection(pika.URLParameters(switch.url)) for _ in range(2))
    asker, service = asking.channel(), answering.channel()
    service.queue_declare("service", durable=True)
    asker.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
    for _ in range(REPLIES):
        asker.basic_publish("", "service", b"?", BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    # From here on nobody reads at the asker's end.
    most = 0.0
    requests = service.consume("service", auto_ack=True, inactivity_timeout=PATIENCE_S)
    for answered, (_, properties, _) in enumerate(requests, 1):
        service.basic_publish("", properties.reply_to, b"x" * REPLY_SIZE)
        most = max(most, switch.figure("unread_bytes"))
        if answered == REPLIES:
            break
    assert REPLY_WATER / 2 < most <= REPLY_WATER + 2 * REPLY_SIZE
    answering.close()
    asking.close()


def test_all_who_do_not_read_their_replies_have_one_bound_together(switch: Watched) -> None:
    bound, askers = 16 << 20, 8
    assert switch.stop() == 0
    switch.start("--memory-max", str(bound))
    connections = [pika.BlockingConnection(pika.URLParameters(switch.url)) for _ in range(askers + 1)]
    *asking, answering = (connection.channel() for connection in connections)
    answering.queue_declare("service", durable=True)
    for asker in asking:
        asker.basic_consume("amq.rabbitmq.reply-to", lambda *_: None, auto_ack=True)
        for _ in range(REPLIES // askers):
            asker.basic_publish("", "service", b"?", BasicProperties(reply_to="amq.rabbitmq.reply-to"))
    most = 0.0
    requests = answering.consume("service", auto_ack=True, inactivity_timeout=PATIENCE_S)
    for answered, (_, properties, _) in enumerate(requests, 1):
        answering.basic_publish("", properties.reply_to, b"x" * REPLY_SIZE)
        most = max(most, switch.figure("unread_bytes"))
        if answered == REPLIES // askers * askers:
            break
    assert bound < most <= bound + askers * (HIGH_WATER + 2 * REPLY_SIZE)
    for connection in connections:
        connection.close()
