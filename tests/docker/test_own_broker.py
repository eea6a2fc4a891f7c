# SPDX-License-Identifier: Apache-2.0
"""A RabbitMQ container that belongs to this file: two hosts share it, and each user may do what is its business."""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest
from pika.exceptions import ChannelClosedByBroker
from testcontainers.core.container import DockerContainer

from deploy.rabbitmq import definitions
from tests.docker.conftest import READY_S, TOP
from xenops.bus.amqp import AmqpBus
from xenops.bus.port import Delivery, Message

pytestmark = [pytest.mark.docker, pytest.mark.timeout(120)]
QUEUE = "xenops.one.simulator"


@dataclass(frozen=True)
class Broker:
    """The URL of each user."""

    one: str
    two: str
    clients: str


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    """RabbitMQ with the users of two hosts; clients wait by themselves until it accepts them."""
    folder = tmp_path_factory.mktemp("rabbitmq")
    definitions.write(folder, ["{broker}"], ["one", "two"])
    (folder / "definitions.json").chmod(0o644)
    container = DockerContainer("xenopsd/rabbitmq").with_exposed_ports(5672)
    for source in (
        folder / "definitions.json",
        TOP / "deploy/rabbitmq/rabbitmq.conf",
        TOP / "deploy/rabbitmq/enabled_plugins",
    ):
        container = container.with_volume_mapping(str(source), f"/etc/rabbitmq/{source.name}", "ro")
    with container:
        address = f"127.0.0.1:{container.get_exposed_port(5672)}"

        def url(user: str) -> str:
            return (folder / f"{user}.url").read_text().strip().replace("{broker}", address)

        yield Broker(url("host-one"), url("host-two"), url("clients"))


async def _answer(delivery: Delivery) -> Message:
    return Message(delivery.message.body[::-1])


def test_a_request_and_an_event_go_from_user_to_user(broker: Broker) -> None:
    async def run() -> None:
        service, client = AmqpBus(broker.one), AmqpBus(broker.clients)
        try:
            await service.connect(READY_S)
            await client.connect(READY_S)
            await service.serve(QUEUE, _answer)
            reply = await client.call(QUEUE, Message(b"abc", message_id="1"), timeout_s=20.0)
            assert reply.body == b"cba"
            heard: asyncio.Queue[Message] = asyncio.Queue()
            await client.subscribe(["one.#"], heard.put_nowait)
            await service.publish("one.simulator.vm.a", Message(b"changed"))
            assert (await asyncio.wait_for(heard.get(), 20.0)).body == b"changed"
        finally:
            await client.close()
            await service.close()

    asyncio.run(run())


def refused(url: str, what: str) -> None:
    """Try something as a user who must not."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    channel = connection.channel()
    channel.confirm_delivery()
    attempts = {
        "consume": lambda: channel.basic_consume(QUEUE, lambda *_: None),
        "declare": lambda: channel.queue_declare("xenops.one.other", durable=True),
        "publish": lambda: channel.basic_publish("xenops.events", "one.simulator.vm.a", b"a lie"),
    }
    with pytest.raises(ChannelClosedByBroker) as closed:
        attempts[what]()
    assert closed.value.reply_code == 403
    connection.close()


@pytest.mark.parametrize("what", ["consume", "declare", "publish"])
def test_nobody_else_serves_a_host_s_queue_or_speaks_in_its_name(broker: Broker, what: str) -> None:
    async def exists() -> None:
        service = AmqpBus(broker.one)
        await service.connect(READY_S)
        await service.serve(QUEUE, _answer)
        await service.close()

    asyncio.run(exists())
    refused(broker.two, what)
    refused(broker.clients, what)


def test_passwords_are_in_private_files_only(tmp_path: Path) -> None:
    definitions.write(tmp_path, "b:1", ["one"])
    url = (tmp_path / "host-one.url").read_text()
    password = url.split(":")[2].split("@")[0]
    assert (tmp_path / "host-one.url").stat().st_mode & 0o077 == 0
    assert password not in (tmp_path / "definitions.json").read_text()
    definitions.write(tmp_path, "b:1", ["one"])
    assert (tmp_path / "host-one.url").read_text() == url
