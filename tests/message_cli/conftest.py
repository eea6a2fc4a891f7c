# SPDX-License-Identifier: Apache-2.0
"""`message-cli` as a process of its own, on the real switch and on a real RabbitMQ with its management plugin."""

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests import brokers

START = "import sys; from message_cli.main import main; sys.exit(main())"
RUN_S = 60
needs_rabbitmq = pytest.mark.skipif(not brokers.RABBITMQ.exists(), reason="rabbitmq-server is not installed")


class Place(NamedTuple):
    """A broker, and where its administration is."""

    url: str
    management: str
    node: brokers.Broker | None = None  # of RabbitMQ, for what only its operator can do


class Ran(NamedTuple):
    """How a run ended."""

    code: int
    out: str
    err: str


@pytest.fixture(scope="session")
def switch_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """The embedded switch."""
    broker = brokers.message_switch(tmp_path_factory.mktemp("message-cli-switch"))
    broker.start()
    yield Place(broker.url, "")
    broker.kill()


@pytest.fixture(scope="session")
def rabbitmq_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """RabbitMQ, whose HTTP API comes up after its AMQP port."""
    directory, port = tmp_path_factory.mktemp("message-cli-rabbitmq"), brokers.free_port()
    node = brokers.rabbitmq(directory)
    (directory / "enabled_plugins").write_text("[rabbitmq_management].\n")
    with (directory / "rabbitmq.conf").open("a") as conf:
        conf.write(f"management.tcp.ip = 127.0.0.1\nmanagement.tcp.port = {port}\n")
    try:
        node.start()
        _wait_for(f"http://127.0.0.1:{port}/")
        yield Place(node.url, f"http://127.0.0.1:{port}", node)
    finally:
        node.kill()
        brokers.stop_port_mapper(node)


def _wait_for(url: str) -> None:
    until = time.monotonic() + brokers.READY_S
    while True:
        try:
            urllib.request.urlopen(url, timeout=10).close()
            return
        except urllib.error.URLError:
            assert time.monotonic() < until, "the management plugin does not answer"
            time.sleep(0.1)


@pytest.fixture(params=["switch", pytest.param("rabbitmq", marks=[pytest.mark.rabbitmq, needs_rabbitmq])])
def place(request: pytest.FixtureRequest) -> Place:
    """Each broker in turn."""
    found: Place = request.getfixturevalue(f"{request.param}_place")
    return found


def environ_of(place: Place) -> dict[str, str]:
    """The password is in no argv."""
    return {"PATH": "/usr/bin:/bin", "XENOPS_URL": place.url, "RABBITMQ_MANAGEMENT_URL": place.management}


@pytest.fixture
def environ(place: Place, tmp_path: Path) -> dict[str, str]:
    """See `environ_of`."""
    return environ_of(place)


@pytest.fixture
def cli(environ: dict[str, str]) -> Callable[..., Ran]:
    """Run a command to its end."""

    def call(*argv: str, stdin: str = "") -> Ran:
        ran = subprocess.run(
            [sys.executable, "-c", START, *argv],
            env=environ, input=stdin, capture_output=True, text=True, check=False, timeout=RUN_S,
        )  # fmt: skip
        return Ran(ran.returncode, ran.stdout, ran.stderr)

    return call


@pytest.fixture
def serving(environ: dict[str, str]) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `serve` and return once it serves; what still runs afterwards is ended."""
    children = []

    def start(*argv: str) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-c", START, "serve", *argv],
            env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        children.append(child)
        assert child.stderr is not None
        assert "serving" in child.stderr.readline()
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def traced(place: Place) -> None:
    """On RabbitMQ its operator has turned the firehose on."""
    if place.node is not None:
        brokers.trace(place.node, on=True)


@pytest.fixture
def following_on() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """Start `tail --follow`, or another word that watches, on a broker; what still runs afterwards is ended."""
    children = []

    def start(place: Place, *argv: str, word: tuple[str, ...] = ("tail", "--follow")) -> "subprocess.Popen[str]":
        child = subprocess.Popen(
            [sys.executable, "-c", START, *word, *argv],
            env=environ_of(place), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        children.append(child)
        return child

    yield start
    for child in children:
        child.kill()
        child.communicate()


@pytest.fixture
def following(place: Place, following_on: Callable[..., "subprocess.Popen[str]"]) -> Any:
    """The same on each broker in turn."""
    return partial(following_on, place)
