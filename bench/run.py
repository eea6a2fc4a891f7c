# SPDX-License-Identifier: Apache-2.0
"""`make bench`: how fast and how large, as ratios against a peer.

Peers that can run here run in turn with ours, and the median of the paired ratios counts. The original xenopsd
(OCaml, simulator, persistence on, a 2-core machine) cannot be built here: its figures are constants measured
elsewhere, and their rows say "recorded". Prints a table and writes bench/latest.json.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "deploy" / "local"))
sys.path.insert(0, str(HERE.parent))

from stack import Stack  # noqa: E402

from tests.brokers import RABBITMQ, Broker, rabbitmq, stop_port_mapper  # noqa: E402
from xenops.client import connect  # noqa: E402
from xenops.types.vm import Direct, Pv, Vm  # noqa: E402

RUNS = 5
SECONDS = 1.5
CALLERS = (1, 16, 64)
MACHINES = 1000


class Row(NamedTuple):
    """One comparison; `ratio` is ours by peer."""

    name: str
    ours: float
    peer: float
    ratio: float
    aim: str
    met: bool


def measured(script: str, *arguments: object) -> float:
    """What one run of a load printed."""
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout)


def paired(name: str, ours: Callable[[], float], peer: Callable[[], float], at_least: float) -> Row:
    """In turn, and the median of the ratios."""
    pairs = [(ours(), peer()) for _ in range(RUNS)]
    ratio = statistics.median(a / b for a, b in pairs)
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    return Row(name, a, b, ratio, f">= {at_least}", ratio >= at_least)


class Echo:
    """The bare echo server as a process, on some switch."""

    def __init__(self, url: str, queue: str) -> None:
        self._process = subprocess.Popen([sys.executable, str(HERE / "echo.py"), url, queue], stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the echo server did not start")

    def __enter__(self) -> "Echo":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.communicate()


def rates(url: str, queue: str, other: Broker | None) -> list[Row]:
    """Requests: ours against a bare echo, our switch against RabbitMQ."""
    rows = []
    with Echo(url, "bench.echo"):
        for n in CALLERS:

            def peer(n: int = n) -> float:
                return measured("load.py", url, "bench.echo", n, SECONDS)

            rows.append(
                paired(
                    f"query, {n} in flight, by bare echo",
                    lambda n=n: measured("load.py", url, queue, n, SECONDS),
                    peer,
                    0.85,
                )
            )
        if other is None:
            return rows
        with Echo(other.url, "bench.echo"):
            for n in CALLERS:

                def ours(n: int = n) -> float:
                    return measured("load.py", url, "bench.echo", n, SECONDS)

                name = f"echo on the switch, {n} in flight, by RabbitMQ"
                rows.append(
                    paired(name, ours, lambda n=n: measured("load.py", other.url, "bench.echo", n, SECONDS), 1.0)
                )
    return rows


def start_rabbitmq(folder: Path) -> Broker | None:
    """A node of our own; None where RabbitMQ is not installed."""
    if not RABBITMQ.exists():
        return None
    folder.mkdir()
    broker = rabbitmq(folder)
    broker.start()
    return broker


def recorded(name: str, ours: float, peer: float, *, at_least: float = 0.0, at_most: float = 0.0) -> Row:
    """Against a figure of the original that was measured elsewhere."""
    ratio = ours / peer
    aim = f">= {at_least}" if at_least else f"<= {at_most:.3g}"
    return Row(
        name if "by the aim" in name else f"{name} (peer recorded)",
        ours,
        peer,
        ratio,
        aim,
        ratio >= at_least if at_least else ratio <= at_most,
    )


def lives(url: str, queue: str) -> list[Row]:
    """Whole lives per second, and plain queries, against the original's."""
    one = statistics.median(measured("lives.py", url, queue, 1, 3) for _ in range(RUNS))
    four = statistics.median(measured("lives.py", url, queue, 4, 3) for _ in range(RUNS))
    query = statistics.median(measured("load.py", url, queue, 1, SECONDS) for _ in range(RUNS))
    return [
        recorded("lives/s, 1 caller, by the original", one, 25.0, at_least=3.0),
        recorded("lives/s, 4 callers, by the original", four, 35.0, at_least=3.0),
        recorded("queries/s, 1 in flight, by the original", query, 800.0, at_least=3.0),
    ]


async def a_thousand(url: str, queue: str, pid: int) -> list[Row]:
    """List a thousand machines; run them all and look at the daemon's memory."""
    async with connect(url=url, queue=queue) as xenops:
        ids = [f"bench-{n}" for n in range(MACHINES)]
        for id in ids:
            await xenops.VM.add(Vm(id=id, name=id, ty=Pv(boot=Direct(kernel="/boot/vmlinuz"))))
        halted = await _list_ms(xenops)
        for start in range(0, MACHINES, 16):
            tasks = [await xenops.VM.start(id, paused=False) for id in ids[start : start + 16]]
            for task in tasks:
                await xenops.finished(task)
        running = await _list_ms(xenops)
        memory = _resident_mb(pid)
    return [
        recorded("list of 1000 halted, ms, by the original", halted, 605.0, at_most=0.1),
        recorded("list of 1000 running, ms, by the original", running, 491.0, at_most=0.1),
        recorded("resident MB with 1000 running, by the original", memory, 52.3, at_most=100 / 52.3),
    ]


def many() -> list[Row]:
    """Ten thousand machines, on a stack of its own; aims are absolute, but for the first."""
    ran = subprocess.run(
        [sys.executable, str(HERE / "many.py")], check=True, capture_output=True, text=True, timeout=1200
    )
    found: dict[str, float] = json.loads(ran.stdout)
    few, most = found["lives/s at 10"], found["lives/s at 10000"]
    rows = [Row("lives/s, 16 callers, beside 10000, by beside 10", most, few, most / few, ">= 0.8", most / few >= 0.8)]
    few, most = found["cpu ms a life at 10"], found["cpu ms a life at 10000"]
    rows.append(Row("processor ms a life, the same", most, few, most / few, "<= 1.25", most / few <= 1.25))
    rows.append(recorded("lives/s, 16 callers, beside 10, by the aim", found["lives/s at 10"], 100.0, at_least=1.0))
    for name, aim in (
        ("start-up with 10000, s", 5.0),
        ("KiB a VM after start-up", 40.0),
        ("KiB a registered VM", 40.0),
    ):
        rows.append(recorded(f"{name}, by the aim", found[name], aim, at_most=1.0))
    for name in ("list of 10000, ms", "fan-out to 64, p99 ms"):
        rows.append(Row(name, found[name], 0.0, 0.0, "", True))
    return rows


async def _list_ms(xenops) -> float:  # type: ignore[no-untyped-def]
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        assert len(await xenops.VM.list()) == MACHINES
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def _resident_mb(pid: int) -> float:
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) / 1024


async def main() -> int:
    """Measure, print, write."""
    with tempfile.TemporaryDirectory(prefix="xenops-bench-") as folder:
        stack = Stack(Path(folder), log_level="warning")
        other = await asyncio.to_thread(start_rabbitmq, Path(folder) / "rabbitmq")
        if other is None:
            print("rabbitmq-server is not installed: its rows are left out (apt install rabbitmq-server)")
        try:
            found = await stack.start()
            pid = next(process.pid for part, process in stack.running if part.program == "xenopsd")
            rows = await asyncio.to_thread(rates, found.amqp, found.queue, other)
            rows += await asyncio.to_thread(lives, found.amqp, found.queue)
            rows += await a_thousand(found.amqp, found.queue, pid)
            rows += await asyncio.to_thread(many)
        finally:
            await stack.stop()
            if other is not None:
                other.kill()
                stop_port_mapper(other)
    for row in rows:
        print(
            f"{row.name:<60} {row.ours:>9.1f} {row.peer:>9.1f} {row.ratio:>7.2f}  {row.aim:<8} {'met' if row.met else 'NOT MET'}"
        )
    (HERE / "latest.json").write_text(json.dumps([row._asdict() for row in rows], indent=2) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
