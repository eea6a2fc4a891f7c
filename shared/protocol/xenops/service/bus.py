# SPDX-License-Identifier: Apache-2.0
"""How a service comes onto the bus: the settings that all of them share, the connection, and the announcement.

    class XenopsdSettings(BusSettings, frozen=True, kw_only=True): ...   # keys of its own come on top
    bus = await connected(settings, "xenopsd", stop)    # metrics served, then connected; None if stopped before that
    info = describe("xenopsd", settings, instance="simulator", queue="xenops.h.simulator", features=[...])
    dispatcher = Dispatcher([...], observe=request_metrics("xenopsd"))
    await alone(bus, info)                              # exits if another one serves that queue
    await bus.serve(info.queue, dispatcher.answer)
    await announce(bus, info, Change.ADDED)             # the `service` event; REMOVED before a clean stop

A password belongs in the file that `amqp-url-file` names; it must never reach a log line.
"""

import asyncio
import logging
import os
import secrets
import socket
import stat
import time
from collections.abc import Callable
from typing import Annotated, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, field
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from xenops import wire
from xenops.bus.amqp import AmqpBus
from xenops.bus.place import places
from xenops.bus.port import Bus, Message
from xenops.bus.serving import QueueType
from xenops.errors import BadRequest, Fault
from xenops.events import Change, Event, Kind, encode, topic
from xenops.interfaces.xenops.general import General
from xenops.rpc import stub
from xenops.service.metrics import build_info, serve_metrics
from xenops.service.settings import Settings, SettingsError
from xenops.types.service import ServiceInfo
from xenops.version import VERSION

log = logging.getLogger(__name__)
DEFAULT_URL = "amqp://guest:guest@127.0.0.1:5672/%2F"
_NEIGHBOUR_S = 2.0
_BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0)


def short_hostname() -> str:
    """This machine's name up to the first dot."""
    return socket.gethostname().partition(".")[0] or "localhost"


class BusSettings(Settings, frozen=True, kw_only=True):
    """Settings of a service on the bus."""

    amqp_url: Annotated[str, Meta(description="where the switch is; with a password, better use amqp-url-file")] = (
        DEFAULT_URL
    )
    amqp_url_file: Annotated[
        str, Meta(description="file with the switch's URL, readable by its owner alone; wins over amqp-url")
    ] = ""
    amqp_queue_type: Annotated[
        QueueType, Meta(description="classic, or quorum: queues that outlive a node of a RabbitMQ cluster")
    ] = "classic"
    host: Annotated[
        str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_.-]+\Z", description="this host's name on the bus")
    ] = field(default_factory=short_hostname)
    metrics_host: Annotated[str, Meta(description="address to serve Prometheus metrics on")] = "127.0.0.1"
    metrics_port: Annotated[
        int, Meta(ge=0, le=65535, description="port to serve metrics on; 0 takes a free one and logs it")
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error")
    ] = "info"

    def __post_init__(self) -> None:
        self.url()  # a file that cannot be read is reported beside every other mistake, before anything starts

    def url(self) -> str:
        """The URL of the switch; never log it, it may hold a password."""
        if not self.amqp_url_file:
            return _checked(self.amqp_url, "amqp-url")
        where = f"amqp-url-file {self.amqp_url_file}"
        try:
            with open(self.amqp_url_file, encoding="utf-8") as file:
                if stat.S_IMODE(os.fstat(file.fileno()).st_mode) & 0o077:
                    raise SettingsError(f"{where}: others than its owner may use it; chmod 600 it")
                return _checked(file.read(4096).strip(), where)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{where}: cannot be read: {error}") from None


def _checked(untrusted_url: str, where: str) -> str:
    try:
        for node in places(untrusted_url):
            if node.port == 0 or not urlsplit(node.bare).hostname:
                raise BadRequest("url", "names no host")
            node.tls()
    except BadRequest as fault:
        raise SettingsError(f"{where}: is no URL of a switch: {fault.reason}") from None
    return untrusted_url


async def connected(settings: BusSettings, program: str, stop: asyncio.Event) -> Bus | None:
    """Serve metrics, then wait for the switch as long as it takes; None if `stop` is set before it is there."""
    build_info(program)
    try:
        port = await serve_metrics(settings.metrics_host, settings.metrics_port)
    except OSError as error:
        log.error("metrics cannot be served: %s; choose another --metrics-host or --metrics-port", error)
        raise SystemExit(1) from None
    log.info("metrics on http://%s:%d/metrics", settings.metrics_host, port)
    bus = AmqpBus(settings.url(), name=program, queue_type=settings.amqp_queue_type)
    connecting, stopping = asyncio.ensure_future(bus.connect()), asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait((connecting, stopping), return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connecting.result()  # raises what went wrong
            return bus
        await bus.close()
        return None
    finally:
        for waiting in (connecting, stopping):
            waiting.cancel()
        await asyncio.gather(connecting, stopping, return_exceptions=True)


def describe(
    program: str, settings: BusSettings, *, instance: str, queue: str, features: list[str] | None = None
) -> ServiceInfo:
    """What `query` answers, with an instance id that is new at every start."""
    return ServiceInfo(
        name=program,
        version=VERSION,
        interface=wire.VERSION,
        features=features or [],
        instance_id=secrets.token_hex(8),
        host=settings.host,
        instance=instance,
        queue=queue,
    )


async def alone(bus: Bus, info: ServiceInfo, *, limit: int = 10000) -> None:
    """Exit with a word to the operator if another process answers on our queue: each of us would get half of the requests.

    One that is counted but does not answer has died with its host, and the switch has not noticed yet: no reason to wait.
    """
    if await bus.servers(info.queue, limit=limit) == 0:
        return
    try:
        other = await stub(General, bus, info.queue, timeout_s=_NEIGHBOUR_S).query()
    except Fault as fault:
        log.warning("somebody else consumes from %s but does not answer: %s", info.queue, fault)
        return
    log.error(
        "another %s serves the queue %s (instance id %s): stop it, or give this one another %s",
        other.name,
        info.queue,
        other.instance_id,
        "--instance" if info.queue.endswith(f".{info.instance}") else "--host",
    )
    raise SystemExit(1)


async def announce(bus: Bus, info: ServiceInfo, change: Change) -> None:
    """Publish the `service` event: it begins to serve (ADDED) or is about to leave (REMOVED)."""
    event = Event(
        epoch=info.instance_id,
        seq=2 if change is Change.REMOVED else 1,
        host=info.host,
        instance=info.instance,
        kind=Kind.SERVICE,
        id=info.queue,
        change=change,
        at=int(time.time() * 1000),
        service=msgspec.to_builtins(info),
    )
    await bus.publish(topic(info.host, info.instance, Kind.SERVICE, info.queue), Message(encode(event)))


def request_metrics(program: str, registry: CollectorRegistry = REGISTRY) -> Callable[[str, str, float], None]:
    """What a `Dispatcher` observes, as `<program>_requests_total` and `<program>_request_duration_seconds`."""
    prefix = program.replace("-", "_")
    requests = Counter(f"{prefix}_requests_total", "Requests answered", ["method", "outcome"], registry=registry)
    durations = Histogram(
        f"{prefix}_request_duration_seconds", "Time to answer", ["method"], buckets=_BUCKETS, registry=registry
    )

    def observe(method: str, outcome: str, seconds: float) -> None:
        requests.labels(method, outcome).inc()
        durations.labels(method).observe(seconds)

    return observe
