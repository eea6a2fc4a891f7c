# SPDX-License-Identifier: Apache-2.0
"""A real switch in a process of its own, and a RabbitMQ to compare it with where it is installed."""

import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from tests import brokers

START = "import sys; from message_switch.main import main; sys.exit(main())"


class SwitchProcess:
    """`message-switch` with a data directory that outlives it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.child: subprocess.Popen[bytes] | None = None

    def start(self, *flags: str) -> None:
        (self.data / "port").unlink(missing_ok=True)
        base = ["--port", "0", "--data", str(self.data), "--socket", str(self.data / "s"), "--log-level", "warning"]
        self.child = subprocess.Popen([sys.executable, "-c", START, *base, *flags])
        deadline = time.monotonic() + 30
        while not (self.data / "port").exists():
            assert self.child.poll() is None, "the switch ended at once"
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.child is not None
        self.child.send_signal(how)
        code = self.child.wait(20)
        self.child = None
        return code

    @property
    def password(self) -> str:
        return (self.data / "password").read_text().strip()

    @property
    def url(self) -> str:
        port = int((self.data / "port").read_text())
        return f"amqp://xenops:{self.password}@127.0.0.1:{port}/%2F"


@pytest.fixture
def process(tmp_path: Path) -> Iterator[SwitchProcess]:
    switch = SwitchProcess(tmp_path)
    yield switch
    if switch.child is not None:
        switch.stop(signal.SIGKILL)


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SwitchProcess]:
    """One for all tests of a worker: they use names of their own."""
    switch = SwitchProcess(tmp_path_factory.mktemp("switch"))
    switch.start()
    yield switch
    assert switch.stop() == 0


needs_rabbitmq = pytest.mark.skipif(not brokers.RABBITMQ.exists(), reason="rabbitmq-server is not installed")


@pytest.fixture(params=["switch", pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, needs_rabbitmq])])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "rabbitmq":
        return f"amqp://guest:guest@127.0.0.1:{request.getfixturevalue('rabbitmq_port')}/%2F"
    switch: SwitchProcess = request.getfixturevalue("running")
    return switch.url


@pytest.fixture
def connect(url: str) -> Iterator[Callable[[], pika.BlockingConnection]]:
    made = []

    def one() -> pika.BlockingConnection:
        made.append(pika.BlockingConnection(pika.URLParameters(url)))
        return made[-1]

    yield one
    for connection in made:
        if connection.is_open:
            connection.close()


@pytest.fixture
def channel(connect: Callable[[], pika.BlockingConnection]) -> BlockingChannel:
    return connect().channel()


@pytest.fixture
def durable(connect: Callable[[], pika.BlockingConnection]) -> Iterator[Callable[..., str]]:
    """Declares durable queues with names of their own; they are deleted afterwards."""
    connection = connect()
    names = []

    def declare(**arguments: object) -> str:
        names.append(f"test-{uuid.uuid4().hex}")
        with connection.channel() as channel:
            wanted = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
            channel.queue_declare(names[-1], durable=True, arguments=wanted)
        return names[-1]

    yield declare
    with connection.channel() as channel:
        for name in names:
            channel.queue_delete(name)
