# SPDX-License-Identifier: Apache-2.0
"""The brokers of the bus contract: memory always, the embedded switch as a process, RabbitMQ where it is installed."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests import brokers

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


@contextmanager
def _running(broker: brokers.Broker) -> Iterator[brokers.Broker]:
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
