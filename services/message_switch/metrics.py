# SPDX-License-Identifier: Apache-2.0
"""The switch's figures for Prometheus, read off its state only when somebody asks."""

from collections.abc import Callable, Iterator

from prometheus_client import Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import REGISTRY, Collector, CollectorRegistry

from message_switch.model.broker import Broker
from xenops.service.metrics import build_info, serve_metrics

_COUNTERS = {
    "published": "Messages that publishers sent",
    "delivered": "Messages sent to consumers, redeliveries included",
    "confirmed": "Messages confirmed to their publishers",
    "unroutable": "Messages that no queue was bound for",
    "refused": "Messages refused because a queue or the memory was full",
    "dead_lettered": "Messages passed to a dead-letter exchange",
}


class SwitchCollector(Collector):
    """See the module; server-named queues come and go, so they are only summed up."""

    def __init__(
        self,
        broker: Broker,
        connections: Callable[[], int],
        unread_bytes: Callable[[], int],
        journal_bytes: Callable[[], int],
        now: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._connections = connections
        self._unread_bytes = unread_bytes
        self._journal_bytes = journal_bytes
        self._now = now

    def collect(self) -> Iterator[Metric]:
        """All figures."""
        broker = self._broker
        for name, text in _COUNTERS.items():
            yield CounterMetricFamily(f"message_switch_{name}_messages", text, value=getattr(broker.count, name))
        yield CounterMetricFamily(
            "message_switch_trace_dropped_copies", "Copies that a trace had no room for", value=broker.trace.dropped
        )
        yield GaugeMetricFamily("message_switch_connections", "Open connections", value=self._connections())
        yield GaugeMetricFamily("message_switch_queues", "Queues, of all kinds", value=len(broker.queues))
        yield GaugeMetricFamily("message_switch_queued_bytes", "Bytes of waiting messages", value=broker.queued_bytes)
        yield GaugeMetricFamily(
            "message_switch_unread_bytes", "Bytes that peers have to read", value=self._unread_bytes()
        )
        yield GaugeMetricFamily("message_switch_journal_bytes", "Size of the journal", value=self._journal_bytes())
        lacking = GaugeMetricFamily("message_switch_publishers_wait", "Whether for lack of this", labels=["lack"])
        for what in ("memory", "disk"):
            lacking.add_metric([what], what in broker.short_of)
        yield lacking
        ready = GaugeMetricFamily("message_switch_queue_ready", "Messages that wait for a consumer", labels=["queue"])
        held = GaugeMetricFamily("message_switch_queue_unacked", "Messages delivered, not settled", labels=["queue"])
        oldest = GaugeMetricFamily(
            "message_switch_queue_oldest_seconds", "Age of the oldest waiting message", labels=["queue"]
        )
        consumers = GaugeMetricFamily("message_switch_queue_consumers", "Consumers of the queue", labels=["queue"])
        now = self._now()
        for queue in broker.queues.values():
            if queue.server_named:
                continue
            ready.add_metric([queue.name], len(queue.ready))
            held.add_metric([queue.name], len(queue.held))
            oldest.add_metric([queue.name], max(0.0, now - queue.ready.oldest_at()) if queue.ready else 0.0)
            consumers.add_metric([queue.name], len(queue.consumers))
        yield from (ready, held, oldest, consumers)


async def serve(program: str, host: str, port: int) -> None:
    """Answer those who ask for all figures of this process."""
    build_info(program)
    await serve_metrics(host, port)


def fsync_histogram(registry: CollectorRegistry = REGISTRY) -> Histogram:
    """How long the disk takes to make sure."""
    return Histogram(
        "message_switch_journal_fsync_seconds",
        "Time of one fsync of the journal",
        buckets=(0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3),
        registry=registry,
    )
