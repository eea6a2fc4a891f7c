# SPDX-License-Identifier: Apache-2.0
"""Prometheus metrics of one process, served over HTTP on loopback unless configured otherwise."""

import asyncio
from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Gauge
from prometheus_client.core import CounterMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from xenops.bus import meters
from xenops.version import VERSION

_LIMIT = 8192
_DEADLINE_S = 5.0


async def serve_metrics(host: str, port: int, registry: CollectorRegistry = REGISTRY) -> int:
    """Answer `GET /metrics` from the running event loop; returns the port, of use when 0 was asked for."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                untrusted_head = await reader.readuntil(b"\r\n\r\n")
                writer.write(_response(untrusted_head, registry))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked has gone or does not speak HTTP: nobody to tell
        finally:
            writer.close()

    server = await asyncio.start_server(answer, host, port, limit=_LIMIT)
    bound: int = server.sockets[0].getsockname()[1]
    _servers.add(server)
    return bound


class BusMetrics(Collector):
    """What this process counted of its bus."""

    def collect(self) -> Iterator[CounterMetricFamily]:
        """Asked by the registry."""
        again = "Connections to the switch made again after one was lost"
        yield CounterMetricFamily("bus_reconnects", again, value=meters.reconnects.value)
        published = CounterMetricFamily("bus_published", "Messages handed to the switch", labels=["direction"])
        for direction, count in (("request", meters.requests), ("reply", meters.replies), ("event", meters.events)):
            published.add_metric([direction], count.value)
        yield published
        dropped = "Events not sent, since there was no connection or it was too slow"
        yield CounterMetricFamily("bus_dropped_events", dropped, value=meters.dropped_events.value)


def build_info(program: str, registry: CollectorRegistry = REGISTRY) -> None:
    """Publish the program's version as a metric, as Prometheus' exporters do, and what its bus counts."""
    registry.register(BusMetrics())
    info = Gauge(
        f"{program.replace('-', '_')}_build_info", "Version of the running program", ["version"], registry=registry
    )
    info.labels(version=VERSION).set(1)


# asyncio keeps only weak references to servers.
_servers: set[asyncio.Server] = set()


def _response(untrusted_head: bytes, registry: CollectorRegistry) -> bytes:
    line, _, rest = untrusted_head.partition(b"\r\n")
    method, _, target = line.partition(b" ")
    path = target.split(b" ")[0].split(b"?")[0]
    if method not in (b"GET", b"HEAD") or path not in (b"/metrics", b"/"):
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
    accept = next((h.split(b":", 1)[1].strip() for h in rest.split(b"\r\n") if h.lower().startswith(b"accept:")), b"")
    encode, content_type = choose_encoder(accept.decode("latin-1"))
    body = encode(registry)
    head = (
        f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode("latin-1") + (b"" if method == b"HEAD" else body)
