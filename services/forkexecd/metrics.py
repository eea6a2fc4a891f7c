# SPDX-License-Identifier: Apache-2.0
"""What Prometheus learns of programs; never their names or arguments, which are the callers' own."""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The figures of one forkexecd."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.programs = Counter(
            "forkexecd_programs_total",
            "Programs by outcome: ok, failed, signalled, timed_out, stopped, not_started, busy",
            ["outcome"],
            registry=registry,
        )
        self.running = Gauge("forkexecd_running", "Programs running now", registry=registry)
        self.duration = Histogram(
            "forkexecd_program_duration_seconds",
            "From a program's start to its end",
            buckets=(0.005, 0.02, 0.1, 0.5, 2.0, 10.0, 60.0, 600.0),
            registry=registry,
        )
        self.spawn = Histogram(
            "forkexecd_spawn_seconds",
            "Time that fork and exec took",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.02, 0.1, 1.0),
            registry=registry,
        )
