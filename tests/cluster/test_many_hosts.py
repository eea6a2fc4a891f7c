# SPDX-License-Identifier: Apache-2.0
"""Two hosts' xenopsds on one cluster of three RabbitMQ nodes, while nodes die and are cut off: nothing accepted is lost.

The callers and what is asked of them in the end are those of the crash loop (tests/system), whose killer struck the
services; here they live on, and the switch loses nodes. CLUSTER=all strikes every node in turn, and two one after the other.
"""

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest
from pika.exceptions import AMQPConnectionError, ChannelClosedByBroker

from deploy.local.stack import Part, Stack
from tests.cluster.nodes import READY_S, Cluster, Node
from tests.system.test_crash_loop import Caller, truth, usable
from xenops.blocking import connect_blocking
from xenops.bus.amqp import AmqpBus
from xenops.bus.link import parameters
from xenops.bus.place import places
from xenops.client import Xenops, connect
from xenops.errors import Busy, SwitchUnreachable, TimedOut

HOSTS = ["one", "two"]
CALLERS = 2  # of each host
ENOUGH = 30  # answers between two strikes: proof that work goes on
WITHIN_S = 400
pytestmark = [pytest.mark.rabbitmq, pytest.mark.timeout(WITHIN_S + READY_S)]
ALARMS = [("set_vm_memory_high_watermark", "0", "0.4"), ("set_disk_free_limit", "1000000GB", "1MB")]
STRUCK = range(3) if os.environ.get("CLUSTER") == "all" else range(1)


@dataclass
class Host(Stack):
    """forkexecd and xenopsd of one host, on the cluster."""

    name: str = ""
    url_file: Path = Path()

    @property
    def queue(self) -> str:
        """Where its xenopsd is asked."""
        return f"xenops.{self.name}.simulator"

    def _write_secrets(self) -> str:
        return self.url_file.read_text()

    def _parts(self) -> list[Part]:
        bus = (f"--amqp-url-file={self.url_file}", "--amqp-queue-type=quorum", f"--host={self.name}")
        own = (f"--state-dir={self.var / 'xenopsd'}", f"--hooks-dir={self.var / 'hooks.d'}", "--backend=simulator")
        return [Part("forkexecd", bus), Part("xenopsd", (*bus, *own))]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """The nodes, for all tests here."""
    its = Cluster(tmp_path_factory.mktemp("cluster"), HOSTS)
    try:
        its.start()
        yield its
    finally:
        its.stop()


@asynccontextmanager
async def hosts(cluster: Cluster, path: Path) -> AsyncIterator[list[Xenops]]:
    """Both at work, and a client's way to each."""
    async with AsyncExitStack() as entered:
        found = []
        for name in HOSTS:
            host = Host(path / name, log_to=path / f"{name}.log", name=name, url_file=cluster.url_file(f"host-{name}"))
            entered.push_async_callback(host.stop)
            await host.start()
            url = cluster.url_file("clients").read_text()
            found.append(await entered.enter_async_context(connect(url=url, queue=host.queue)))
        yield found


async def story(
    cluster: Cluster, path: Path, strike: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]
) -> None:
    """Callers work at both hosts while the cluster is struck; then all must be true."""
    async with hosts(cluster, path) as each:
        empty = [await xenops.HOST.stat() for xenops in each]
        until = asyncio.Event()
        callers = [
            [Caller(f"{name}-{n}", xenops, random.Random(n), until) for n in range(CALLERS)]
            for name, xenops in zip(HOSTS, each, strict=True)
        ]
        everybody = [caller for here in callers for caller in here]
        working = [asyncio.ensure_future(caller.work()) for caller in everybody]

        async def goes_on() -> None:
            """Every caller gets answers, as many as prove it."""
            wanted = {caller.name: caller.answers["ok"] + ENOUGH for caller in everybody}
            while any(caller.answers["ok"] < wanted[caller.name] for caller in everybody):
                for task in working:
                    if task.done():
                        task.result()
                await asyncio.sleep(0.1)

        try:
            await goes_on()
            await strike(goes_on)
            await goes_on()
        finally:
            until.set()
            await asyncio.gather(*working)
        for xenops, here, before in zip(each, callers, empty, strict=True):
            for caller in here:
                await truth(caller)
            registered = sorted(id for caller in here for id in caller.registered)
            assert sorted(stat.vm.id for stat in await xenops.VM.list()) == registered
            await asyncio.gather(*(usable(xenops, vm) for vm in registered))
            assert (await xenops.HOST.stat()).memory_free == before.memory_free
            accepted = {task for caller in here for task, _ in caller.accepted}
            assert {task.id for task in await xenops.Task.list()} == accepted, (
                "a request ran twice, or its task is lost"
            )
            for vm in registered:
                await xenops.VM.remove(vm)


def tell(cluster: Cluster, path: Path, strike: Callable[[Callable[[], Awaitable[None]]], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(WITHIN_S):
            await story(cluster, path, strike)

    try:
        asyncio.run(bounded())
    except BaseException:
        for log in sorted(path.glob("*.log")):
            print(log.name, log.read_text(errors="replace")[-6000:])
        for node in cluster.nodes:
            print(node.name, node.log()[-3000:])
        raise


async def killed(cluster: Cluster, node: Node, goes_on: Callable[[], Awaitable[None]]) -> None:
    node.kill()
    await goes_on()
    node.start()
    await asyncio.to_thread(cluster.complete)


async def cut_off(cluster: Cluster, node: Node, goes_on: Callable[[], Awaitable[None]]) -> None:
    said = len(node.log())
    node.cut()
    await goes_on()
    await asyncio.to_thread(node.says, "[Cc]luster minority", said)  # it has stopped serving by itself
    node.heal()
    await asyncio.to_thread(cluster.complete)


async def asked_for_ever(xenops: Xenops) -> None:
    while True:
        with contextlib.suppress(TimedOut):
            await xenops.query()


async def starved(cluster: Cluster, alarm: tuple[str, str, str], goes_on: Callable[[], Awaitable[None]]) -> None:
    """One node's alarm stops the publishers of all."""
    limit, too_little, enough = alarm
    url = cluster.url_file("clients").read_text()
    async with connect(url=url, queue="xenops.one.simulator", timeout_s=2.0) as xenops:
        await asyncio.to_thread(cluster.nodes[0].ctl, limit, too_little)
        with pytest.raises(Busy, match=r"the switch \(low on"):
            await asked_for_ever(xenops)  # RabbitMQ blocks who publishes, and says so after that message
        await asyncio.to_thread(cluster.nodes[0].ctl, limit, enough)
        await xenops.query()
    await goes_on()


@pytest.mark.parametrize("alarm", ALARMS[: len(STRUCK)], ids=["memory", "disk"][: len(STRUCK)])
def test_a_node_runs_short_and_has_enough_again(cluster: Cluster, tmp_path: Path, alarm: tuple[str, str, str]) -> None:
    tell(cluster, tmp_path, lambda goes_on: starved(cluster, alarm, goes_on))


@pytest.mark.parametrize("number", STRUCK)
def test_a_node_is_killed_and_comes_back(cluster: Cluster, tmp_path: Path, number: int) -> None:
    tell(cluster, tmp_path, lambda goes_on: killed(cluster, cluster.nodes[number], goes_on))


@pytest.mark.parametrize("number", STRUCK)
def test_a_node_is_cut_off_and_comes_back(cluster: Cluster, tmp_path: Path, number: int) -> None:
    tell(cluster, tmp_path, lambda goes_on: cut_off(cluster, cluster.nodes[number], goes_on))


@pytest.mark.skipif(len(STRUCK) == 1, reason="CLUSTER=all")
def test_every_node_is_killed_one_after_the_other(cluster: Cluster, tmp_path: Path) -> None:
    async def strike(goes_on: Callable[[], Awaitable[None]]) -> None:
        for node in cluster.nodes:
            await killed(cluster, node, goes_on)

    tell(cluster, tmp_path, strike)


def test_a_host_takes_nothing_of_another(cluster: Cluster) -> None:
    [node, *_] = places(cluster.url_file("host-one").read_text())
    with pika.BlockingConnection(parameters(node, "stranger")) as connection:
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().basic_get("xenops.two.simulator")
        with pytest.raises(ChannelClosedByBroker, match="ACCESS_REFUSED"):
            connection.channel().queue_delete("xenops.two.simulator")


def test_queues_live_on_every_node(cluster: Cluster) -> None:
    listed = cluster.nodes[0].ctl("list_queues", "--silent", "name", "type", "members")
    for host in HOSTS:
        [line] = [line for line in listed.splitlines() if line.startswith(f"xenops.{host}.simulator")]
        assert "quorum" in line
        assert all(node.name in line for node in cluster.nodes)


def test_who_is_not_certified_is_not_believed(cluster: Cluster) -> None:
    url = (
        cluster.url_file("clients")
        .read_text()
        .replace(str(cluster.folder / "authority.pem"), "/etc/ssl/certs/ca-certificates.crt")
    )

    async def run() -> None:
        bus = AmqpBus(url)
        with pytest.raises(SwitchUnreachable, match="certificate"):
            await bus.connect(timeout_s=5.0)
        await bus.close()

    asyncio.run(run())
    with (
        pytest.raises(AMQPConnectionError),
        pika.BlockingConnection(pika.ConnectionParameters(cluster.nodes[0].address, 5672, connection_attempts=1)),
    ):
        pass


def test_a_script_goes_to_the_next_node_as_well(cluster: Cluster, tmp_path: Path) -> None:
    async def run() -> None:
        async with hosts(cluster, tmp_path) as [one, _]:
            urls = cluster.url_file("clients").read_text().split()
            nowhere = urls[0].replace(
                cluster.nodes[int(urls[0].partition("@10.77.0.")[2][0]) - 1].address, "10.77.0.99"
            )

            def ask() -> None:
                with connect_blocking(url=";".join((nowhere, *urls[1:])), queue=one.queue, timeout_s=60.0) as xenops:
                    assert xenops.query().host == "one"

            await asyncio.to_thread(ask)

    asyncio.run(run())
