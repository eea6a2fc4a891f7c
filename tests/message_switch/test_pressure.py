# SPDX-License-Identifier: Apache-2.0
"""Short of memory or disk, publishers wait, and nothing that was confirmed is lost."""

import resource
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pika
from pika import BasicProperties, DeliveryMode

PERSISTENT = BasicProperties(delivery_mode=DeliveryMode.Persistent.value)


def until(connection: pika.BlockingConnection, ready: Callable[[], Any]) -> None:
    deadline = time.monotonic() + 30
    while not ready():
        connection.process_data_events(time_limit=0.05)
        assert time.monotonic() < deadline, "it never came"


class Witness:
    """A publisher that does not publish any more, and is told when that would have to wait."""

    def __init__(self, url: str) -> None:
        self.told: list[str] = []
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.connection.add_on_connection_blocked_callback(lambda _, frame: self.told.append(frame.method.reason))
        self.connection.add_on_connection_unblocked_callback(lambda *_: self.told.append("go on"))
        self.connection.channel().basic_publish("", "nowhere", b"")


class Flood(threading.Thread):
    """Publishes, and has each message confirmed."""

    def __init__(self, url: str, count: int, body: bytes) -> None:
        super().__init__()
        self._count = count
        self._body = body
        self._channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
        self._channel.queue_declare("flooded", durable=True)
        self._channel.confirm_delivery()
        self.confirmed = 0

    def run(self) -> None:
        for n in range(self._count):
            self._channel.basic_publish("", "flooded", b"%04d" % n + self._body, PERSISTENT, mandatory=True)
            self.confirmed += 1
        self._channel.connection.close()


def drain(url: str) -> list[int]:
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    found = []
    while (got := channel.basic_get("flooded", auto_ack=True))[0] is not None:
        found.append(int(got[2][:4]))
    connection.close()
    return found


def test_out_of_memory_publishers_wait_and_consumers_do_not(process: Any) -> None:
    process.start("--memory-max", str(1 << 20))
    witness = Witness(process.url)
    flood = Flood(process.url, 40, b"x" * 50_000)
    flood.start()
    until(witness.connection, lambda: witness.told)
    assert witness.told == ["low on memory"]
    found: list[int] = []
    while len(found) < 40:
        found += drain(process.url)
    flood.join(30)
    assert flood.confirmed == 40
    assert found == list(range(40))
    until(witness.connection, lambda: witness.told[-1] == "go on")
    witness.connection.close()


def test_a_full_disk_confirms_nothing_and_loses_nothing(process: Any) -> None:
    process.start()
    witness = Witness(process.url)
    _, hard = resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE)
    # As on a full disk, a write ends in the middle, and then there is no room at all.
    resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE, (20_000, hard))
    flood = Flood(process.url, 60, b"x" * 1000)
    flood.start()
    until(witness.connection, lambda: witness.told)
    assert witness.told == ["low on disk"]
    assert flood.confirmed < 60
    assert (process.data / "journal").stat().st_size <= 20_000
    resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE, (hard, hard))
    until(witness.connection, lambda: witness.told[-1] == "go on")
    flood.join(30)
    assert flood.confirmed == 60
    witness.connection.close()
    process.stop(signal.SIGKILL)
    process.start()
    assert drain(process.url) == list(range(60))


def test_a_disk_that_is_full_of_history_has_room_again_once_it_is_consumed(process: Any) -> None:
    process.start()
    witness = Witness(process.url)
    _, hard = resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(process.child.pid, resource.RLIMIT_FSIZE, (200_000, hard))
    flood = Flood(process.url, 400, b"x" * 1000)
    flood.start()
    until(witness.connection, lambda: witness.told)
    assert witness.told == ["low on disk"]
    found: list[int] = []
    while len(found) < 400:  # nobody makes room but who consumes
        found += drain(process.url)
    flood.join(30)
    assert (flood.confirmed, found) == (400, list(range(400)))
    until(witness.connection, lambda: witness.told[-1] == "go on")
    witness.connection.close()
