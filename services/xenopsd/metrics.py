# SPDX-License-Identifier: Apache-2.0
"""xenopsd's own metrics, by Prometheus' conventions; never a VM's id as a label."""

from collections import Counter as Tally
from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from xenops.types.task import Completed, Failed, TaskState
from xenops.types.vm import PowerState
from xenopsd.engine.tasks import Tasks
from xenopsd.engine.workers import Workers

_BUCKETS = (0.0005, 0.002, 0.01, 0.05, 0.2, 1.0, 5.0, 30.0, 120.0, 600.0)


class Metrics(Collector):
    """Gauges are read when somebody looks; nothing is kept up for nobody."""

    def __init__(
        self,
        tasks: Tasks,
        workers: Workers,
        vms: Callable[[], Tally[PowerState]],
        registry: CollectorRegistry = REGISTRY,
    ) -> None:
        self._tasks, self._workers, self._vms = tasks, workers, vms
        self._atoms = Histogram(
            "xenopsd_atom_duration_seconds", "Time a step took", ["atom"], buckets=_BUCKETS, registry=registry
        )
        self._migrations = Counter(
            "xenopsd_migrations", "Migrations that began here, by how they ended", ["outcome"], registry=registry
        )
        for outcome in ("completed", "cancelled", "failed"):
            self._migrations.labels(outcome)
        self._downtime = Histogram(
            "xenopsd_migration_downtime_seconds", "Time a guest stood still", buckets=_BUCKETS, registry=registry
        )
        self._sent = Counter(
            "xenopsd_migration_sent_bytes", "Memory and state sent, before compression", registry=registry
        )
        registry.register(self)

    def observe(self, atom: str, seconds: float) -> None:
        """A step was taken."""
        self._atoms.labels(atom).observe(seconds)

    def migrated(self, state: TaskState) -> None:
        """A migration that began here has ended; what was measured of it, if it moved in this life of ours."""
        if isinstance(state, Failed):
            self._migrations.labels("cancelled" if state.fault.name == "Cancelled" else "failed").inc()
        elif isinstance(state, Completed):
            self._migrations.labels("completed").inc()
            measured = state.result if isinstance(state.result, dict) else {}
            if "downtime_s" in measured:
                self._downtime.observe(measured["downtime_s"])
                self._sent.inc(measured["bytes"])

    def describe(self) -> list[Metric]:
        """Nothing to check for doubles at registration: the names below are ours alone."""
        return []

    def collect(self) -> Iterator[Metric]:
        """See `prometheus_client.registry.Collector`."""
        depth, oldest = self._workers.depth()
        yield GaugeMetricFamily("xenopsd_queue_depth", "Operations that wait for their turn", value=depth)
        yield GaugeMetricFamily("xenopsd_queue_oldest_seconds", "How long the oldest of them has waited", value=oldest)
        tasks = GaugeMetricFamily("xenopsd_tasks", "Tasks that are not forgotten", labels=["state"])
        states = Tally(type(task.state).__name__ for task in self._tasks)
        for state in ("Pending", "Completed", "Failed"):
            tasks.add_metric([state], states[state])
        yield tasks
        vms = GaugeMetricFamily("xenopsd_vms", "Registered machines", labels=["power_state"])
        counted = self._vms()
        for power_state in PowerState:
            vms.add_metric([power_state.value], counted[power_state])
        yield vms
