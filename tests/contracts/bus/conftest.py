# SPDX-License-Identifier: Apache-2.0
"""The brokers of the bus contract: memory always, the embedded switch as a process, RabbitMQ where it is installed.

One RabbitMQ node serves the whole test run: whichever worker needs it first starts it, and the last one ends it.
"""

import fcntl
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from . import brokers
from .world import AmqpWorld, MemoryWorld, World

needs_rabbitmq = pytest.mark.skipif(not brokers.RABBITMQ.exists(), reason="rabbitmq-server is not installed")
SWITCH = pytest.param("switch", id="switch")
RABBITMQ = pytest.param("rabbitmq", id="rabbitmq", marks=[pytest.mark.rabbitmq, needs_rabbitmq])


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`world` is each kind of bus in turn, `amqp_world` each kind of broker."""
    if "world" in metafunc.fixturenames:
        metafunc.parametrize("world", [pytest.param("memory", id="memory"), SWITCH, RABBITMQ], indirect=True)
    if "amqp_world" in metafunc.fixturenames:
        metafunc.parametrize("amqp_world", [SWITCH, RABBITMQ], indirect=True)
    if "own_broker" in metafunc.fixturenames:
        metafunc.parametrize("own_broker", [SWITCH, RABBITMQ], indirect=True)


@pytest.fixture
def world(request: pytest.FixtureRequest) -> World:
    """A bus of the kind that the test's parameter names."""
    if request.param == "memory":
        return MemoryWorld()
    return AmqpWorld(request.getfixturevalue(f"{request.param}_port"))


@pytest.fixture
def amqp_world(request: pytest.FixtureRequest) -> AmqpWorld:
    """A bus over a real broker."""
    return AmqpWorld(request.getfixturevalue(f"{request.param}_port"))


@pytest.fixture
def own_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[brokers.Broker]:
    """A broker that belongs to one test, which may kill it."""
    if request.param == "rabbitmq":
        node = brokers.rabbitmq(tmp_path)
        try:
            with _running(node):
                yield node
        finally:
            brokers.stop_port_mapper(node)
    else:
        with _running(brokers.message_switch(tmp_path)) as broker:
            yield broker


@pytest.fixture(scope="session")
def switch_port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """The embedded switch; one for each worker."""
    with _running(brokers.message_switch(tmp_path_factory.mktemp("switch"))) as broker:
        yield broker.port


@pytest.fixture(scope="session")
def rabbitmq_port(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[int]:
    """The RabbitMQ node of the whole test run."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "rabbitmq"
    directory.mkdir(exist_ok=True)
    broker = _join(directory)
    yield broker.port
    _leave(directory, broker)


@contextmanager
def _running(broker: brokers.Broker) -> Iterator[brokers.Broker]:
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()


def _join(directory: Path) -> brokers.Broker:
    broker = brokers.rabbitmq(directory)
    with _locked(directory) as file:
        shared = json.loads(file.read() or "{}")
        if not shared:
            broker.start()
            assert broker.process is not None
            shared = {"port": broker.port, "pid": broker.process.pid, "environ": broker.environ, "users": 0}
        shared["users"] += 1
        _rewrite(file, shared)
    broker.port, broker.environ = shared["port"], shared["environ"]
    return broker


def _leave(directory: Path, broker: brokers.Broker) -> None:
    with _locked(directory) as file:
        shared = json.loads(file.read())
        shared["users"] -= 1
        if shared["users"] == 0:
            brokers.kill_group(shared["pid"])
            if broker.process is not None:
                broker.process.wait()
            brokers.stop_port_mapper(broker)
            shared = {}
        elif broker.process is not None:
            broker.process.returncode = 0  # others still use it: the last of them ends it, and init waits for it
        _rewrite(file, shared)


@contextmanager
def _locked(directory: Path) -> Iterator[IO[str]]:
    with (directory / "shared.json").open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        yield file


def _rewrite(file: IO[str], shared: dict[str, object]) -> None:
    file.seek(0)
    file.truncate()
    json.dump(shared, file)
    file.flush()
