# SPDX-License-Identifier: Apache-2.0
"""What several folders of tests share: one RabbitMQ node for the whole run, where RabbitMQ is installed, and Node's packages.

Whichever worker needs it first starts it, and the last one ends it.
"""

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import pytest

from tests import brokers


@pytest.fixture
def node_modules() -> Path:
    """The folder of Node packages that `npm install` filled (CONTRIBUTING.md has the line); without it, a test is skipped."""
    folder = Path(__file__).parents[1] / "build/node/node_modules"
    if shutil.which("node") is None or not folder.is_dir():
        pytest.skip("needs node and its packages: npm install --prefix build/node @asyncapi/parser@3.6.3 amqplib@2.3.1")
    return folder


@pytest.fixture(scope="session")
def rabbitmq_port(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Iterator[int]:
    """The RabbitMQ node of the whole test run."""
    base = tmp_path_factory.getbasetemp()
    directory = (base if worker_id == "master" else base.parent) / "rabbitmq"
    directory.mkdir(exist_ok=True)
    broker = _join(directory)
    yield broker.port
    _leave(directory, broker)


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
