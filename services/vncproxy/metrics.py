# SPDX-License-Identifier: Apache-2.0
"""What Prometheus learns of consoles and sessions; never which machine, never a byte of what was said."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge


class Metrics:
    """The figures of one vncproxy."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.consoles = Gauge("vncproxy_consoles", "Consoles of running machines", registry=registry)
        self.sessions = Gauge("vncproxy_open_sessions", "Sessions waiting or connected now", registry=registry)
        self.ended = Counter(
            "vncproxy_sessions_total",
            "Sessions by outcome: done, expired, failed, stopped, unreachable, busy",
            ["protocol", "outcome"],
            registry=registry,
        )
        self.bytes = Counter("vncproxy_bytes_total", "Bytes carried", ["direction"], registry=registry)
