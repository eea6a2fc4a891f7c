# SPDX-License-Identifier: Apache-2.0
"""Two RabbitMQ brokers, each of a site of its own: what a host of the one tells is heard at the other, as the guide sets it up."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.rabbitmq import definitions, federation
from tests import brokers
from tests.cluster.nodes import authority, certify
from tests.cluster.test_many_hosts import Host
from tests.contracts.bus.proxy import Proxy
from tests.xenopsd.machines import plain_vm
from xenops.bus.amqp import AmqpBus
from xenops.client import connect

ADDRESS = "127.0.0.1"
WITHIN_S = 55
pytestmark = [
    pytest.mark.rabbitmq,
    pytest.mark.skipif(not brokers.RABBITMQ.exists(), reason="rabbitmq-server is not installed"),
    pytest.mark.timeout(2 * brokers.READY_S + WITHIN_S),
]


@contextlib.contextmanager
def broker(folder: Path, plugins: str, tls_port: int) -> Iterator[brokers.Broker]:
    """One site's. It speaks TLS as well."""
    folder.mkdir()
    node = brokers.rabbitmq(folder)
    authority(folder)
    certify(folder, folder / "authority", "node", ADDRESS)
    files = {"cacertfile": "authority.pem", "certfile": "node.pem", "keyfile": "node.key"}
    with (folder / "rabbitmq.conf").open("a") as conf:
        conf.write(f"listeners.ssl.1 = {ADDRESS}:{tls_port}\n")
        conf.writelines(f"ssl_options.{key} = {folder / name}\n" for key, name in files.items())
    (folder / "enabled_plugins").write_text(f"[{plugins}].\n")
    try:
        node.start()
        yield node
    finally:
        node.kill()
        brokers.stop_port_mapper(node)


class Heard:
    """Which machines the other site has heard of."""

    def __init__(self) -> None:
        self.keys: set[str] = set()
        self._more = asyncio.Event()

    def hear(self, key: str) -> None:
        self.keys.add(key)
        self._more.set()

    async def of(self, vm: str) -> None:
        while f"web.simulator.vm.{vm}" not in self.keys:
            self._more.clear()
            await self._more.wait()


async def story(path: Path, site: brokers.Broker, tls_port: int, far: brokers.Broker) -> None:
    cable, heard = Proxy(tls_port), Heard()
    await cable.start()
    secrets = path / "site"
    definitions.write(secrets, [f"{ADDRESS}:{tls_port}"], ["web"], str(path / "near/authority.pem"))
    await asyncio.to_thread(brokers.rabbitmqctl, site, "import_definitions", str(secrets / "definitions.json"))
    url = secrets / "events.url"
    url.write_text(url.read_text().replace(f":{tls_port}/", f":{cable.port}/"))
    bus = AmqpBus(far.url)
    await bus.connect(20)
    await bus.subscribe(["#"], lambda event: heard.hear(event.routing_key))
    federation.write(path / "federation.json", {"site": url})
    await asyncio.to_thread(brokers.rabbitmqctl, far, "import_definitions", str(path / "federation.json"))
    host = Host(path / "host", log_to=path / "host.log", name="web", url_file=secrets / "host-web.url")
    await host.start()
    clients = (secrets / "clients.url").read_text()
    try:
        async with connect(url=clients, queue=host.queue) as xenops:
            for n in range(WITHIN_S):  # the link comes about when it does, and carries what is told after that
                await xenops.VM.add(plain_vm(f"vm-{n}"))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(heard.of(f"vm-{n}"), 1.0)
                    break
            cable.stop()
            await xenops.VM.add(plain_vm("vm-cut"))
            await cable.start()
            await heard.of("vm-cut")
            await xenops.VM.add(plain_vm("vm-after"))
            await heard.of("vm-after")
    finally:
        await host.stop()
        await bus.close()
        await cable.finish()


def test_events_reach_the_other_site_also_those_of_while_the_link_was_cut(tmp_path: Path) -> None:
    port, other = brokers.free_port(), brokers.free_port()

    async def bounded(site: brokers.Broker, far: brokers.Broker) -> None:
        async with asyncio.timeout(WITHIN_S):
            await story(tmp_path, site, port, far)

    with broker(tmp_path / "near", "", port) as site, broker(tmp_path / "far", "rabbitmq_federation", other) as far:
        asyncio.run(bounded(site, far))
