# SPDX-License-Identifier: Apache-2.0
"""The switch against RabbitMQ on the same machine, in turn: rates, latencies, processor time and memory, with a client that
costs little.

    python bench/switch.py [--runs N] [--seconds S]

Every point is a remote procedure call: a request to a durable queue, its reply straight back to the caller's channel.
Persistent requests are confirmed too. Prints a table, and writes it into bench/latest-switch.json.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from tests.brokers import Broker, message_switch, rabbitmq, stop_port_mapper  # noqa: E402

CALLERS = (1, 16, 64)
SIZES = (64, 4 << 10, 64 << 10)
IDLE = 400
AIM = {False: 1.5, True: 1.3}


class Point(NamedTuple):
    """Medians of a point's runs; a ratio is ours by theirs, run by run; processor time is the broker's, for one call."""

    what: str
    ours: float
    theirs: float
    ratio: float
    ours_p99_ms: float
    theirs_p99_ms: float
    ours_cpu_us: float
    theirs_cpu_us: float
    aim: float


@contextmanager
def standing(*arguments: object) -> Iterator[None]:
    """A process of `raw.py` that stays until the end."""
    process = subprocess.Popen([sys.executable, str(HERE / "raw.py"), *map(str, arguments)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        if process.stdout.readline() != b"ready\n":
            raise RuntimeError(f"{arguments[0]} did not start")
        yield
    finally:
        process.terminate()
        process.communicate()


def load(broker: Broker, in_flight: int, size: int, seconds: float, *, persistent: bool) -> dict[str, float]:
    """One run of a load, and what it cost the broker."""
    before = processor_s(broker)
    words = ["load", broker.url, "bench.echo", in_flight, size, seconds, *(["persistent"] if persistent else [])]
    command = [sys.executable, str(HERE / "raw.py"), *map(str, words)]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout
    )
    found["cpu"] = (processor_s(broker) - before) / found["answered"] * 1e6
    return found


def points(ours: Broker, theirs: Broker, runs: int, seconds: float) -> Iterator[Point]:
    """Every size and number of callers, persistent and not."""
    for persistent, aim in AIM.items():
        for size in SIZES:
            for in_flight in CALLERS:
                pairs = [
                    [load(broker, in_flight, size, seconds, persistent=persistent) for broker in (ours, theirs)]
                    for _ in range(runs)
                ]
                name = f"{'persistent, ' if persistent else ''}{size} B, {in_flight} in flight"
                yield _point(name, pairs, aim)


def crowd(ours: Broker, theirs: Broker, runs: int, seconds: float) -> Iterator[Point]:
    """Each beside idle consumers, by itself alone: what they cost."""
    for name, broker in (("switch", ours), ("RabbitMQ", theirs)):
        pairs = []
        for _ in range(runs):
            with standing("idle", broker.url, IDLE):
                beside = load(broker, 16, 64, seconds, persistent=False)
            pairs.append([beside, load(broker, 16, 64, seconds, persistent=False)])
        yield _point(f"{name} beside {IDLE} idle consumers, by itself alone, 64 B, 16 in flight", pairs, 0.9)


def _point(name: str, pairs: list[list[dict[str, float]]], aim: float) -> Point:
    rate, p99, cpu = (
        [statistics.median(pair[side][what] for pair in pairs) for side in (0, 1)] for what in ("rate", "p99", "cpu")
    )
    ratio = statistics.median(a["rate"] / b["rate"] for a, b in pairs)
    return Point(name, *rate, ratio, *p99, *cpu, aim)


def processes(broker: Broker) -> Iterator[tuple[Path, list[str]]]:
    """The folder in /proc of each process of a broker, and its stat(5) from the state on."""
    assert broker.process is not None
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
                stat = (folder / "stat").read_text().rsplit(") ", 1)[1].split()
                if int(stat[3]) == broker.process.pid:
                    yield folder, stat


def resident_mib(broker: Broker) -> float:
    """Of all processes of a broker, shared pages counted once for each who shares them in part (PSS)."""
    total = 0
    for folder, _ in processes(broker):
        with suppress(FileNotFoundError, ProcessLookupError):
            rollup = (folder / "smaps_rollup").read_text()
            total += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
    return total / 1024


def processor_s(broker: Broker) -> float:
    """What all processes of a broker have used so far."""
    return sum(int(stat[11]) + int(stat[12]) for _, stat in processes(broker)) / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0)
    options = parser.parse_args()
    found: list[Point] = []
    with tempfile.TemporaryDirectory(prefix="xenops-bench-") as folder:
        homes = [Path(folder) / name for name in ("switch", "rabbitmq")]
        for home in homes:
            home.mkdir()
        ours, theirs = message_switch(homes[0]), rabbitmq(homes[1])
        try:
            ours.start()
            theirs.start()
            fresh = [resident_mib(broker) for broker in (ours, theirs)]
            with standing("echo", ours.url, "bench.echo"), standing("echo", theirs.url, "bench.echo"):
                for each in points(ours, theirs, options.runs, options.seconds):
                    show(each)
                    found.append(each)
                used = [resident_mib(broker) for broker in (ours, theirs)]
                for each in crowd(ours, theirs, options.runs, options.seconds):
                    show(each)
                    found.append(each)
        finally:
            ours.kill()
            theirs.kill()
            stop_port_mapper(theirs)
    memory = {"fresh": fresh, "used": used}
    for when, (mine, other) in memory.items():
        print(f"memory, {when}: {mine:.1f} MiB by {other:.1f} MiB: {mine / other:.2f}  <= 0.2")
    latest = {"points": [point._asdict() for point in found], "memory_mib": memory}
    (HERE / "latest-switch.json").write_text(json.dumps(latest, indent=2) + "\n")
    return 0


def show(it: Point) -> None:
    """A line."""
    verdict = "met" if it.ratio >= it.aim else "NOT MET"
    print(
        f"{it.what:<72} {it.ours:>8.0f} {it.theirs:>8.0f} {it.ratio:>6.2f} >= {it.aim}  {verdict:<8}"
        f" p99 {it.ours_p99_ms:6.2f} {it.theirs_p99_ms:6.2f} ms  cpu {it.ours_cpu_us:4.0f} {it.theirs_cpu_us:4.0f} us",
        flush=True,
    )


if __name__ == "__main__":
    raise SystemExit(main())
