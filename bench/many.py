# SPDX-License-Identifier: Apache-2.0
"""Many machines: how much slower a life is beside ten thousand, listing, starting up, memory, events to many listeners.

Each of the many has a drive and an interface.

Usage: many.py, of its own, with 10, 1000 and 10,000 machines; `make bench` runs it. Prints one JSON object: names to figures.
"""

import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from deploy.local.stack import Stack  # noqa: E402
from xenops.client import Xenops, connect  # noqa: E402
from xenops.types.disk import Local  # noqa: E402
from xenops.types.ids import DeviceId  # noqa: E402
from xenops.types.metadata import Metadata  # noqa: E402
from xenops.types.vbd import Vbd  # noqa: E402
from xenops.types.vif import Vif  # noqa: E402
from xenops.types.vm import Direct, Pv, Vm  # noqa: E402

SIZES = (10, 1000, 10_000)
RUNNING = 2000
LISTENERS = 64
CALLERS = 16
SECONDS = 4.0
EVENTS = 200


def pid_of(stack: Stack) -> int:
    """xenopsd's."""
    return next(process.pid for part, process in stack.running if part.program == "xenopsd")


def resident_kib(pid: int) -> int:
    """Its memory."""
    line = next(line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1])


def cpu_s(pid: int) -> float:
    """The processor time it has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def machine(id: str) -> Metadata:
    """One with a drive and an interface."""
    drive = Vbd(id=DeviceId(vm=id, dev="xvda"), position="xvda", backend=Local(path="/dev/a"))
    interface = Vif(id=DeviceId(vm=id, dev="0"), position=0)
    return Metadata(vm=Vm(id=id, name=id, ty=Pv(boot=Direct(kernel="/boot/vmlinuz"))), vbds=[drive], vifs=[interface])


async def fill(xenops: Xenops, since: int, upto: int) -> None:
    """Register machines up to that many."""
    names = iter(range(since, upto))

    async def caller() -> None:
        for n in names:
            await xenops.VM.import_metadata(msgspec.to_builtins(machine(f"many-{n}")))

    await asyncio.gather(*(caller() for _ in range(CALLERS)))


async def lives(url: str, queue: str, pid: int) -> tuple[float, float]:
    """Whole lives per second, and milliseconds of xenopsd's processor time for each."""
    command = [sys.executable, str(HERE / "lives.py"), url, queue, str(CALLERS), str(SECONDS)]
    before = cpu_s(pid)
    ran = await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True, text=True, timeout=120)
    rate = float(ran.stdout)
    return rate, (cpu_s(pid) - before) * 1000 / (rate * SECONDS)


async def fan_out(url: str, queue: str) -> float:
    """Milliseconds from a change to its event at the last of the listeners, the 99th of a hundred."""
    heard: list[float] = []
    all_heard = asyncio.Event()
    async with connect(url=url, queue=queue) as asker:
        listeners = [connect(url=url, queue=queue) for _ in range(LISTENERS)]
        opened = [await listener.__aenter__() for listener in listeners]

        def hear(message: object) -> None:
            heard.append(time.time())
            if len(heard) == LISTENERS:
                all_heard.set()

        for each in opened:
            await each.bus.subscribe(["*.*.vm.many-0"], hear)
        delays = []
        for n in range(EVENTS):
            heard.clear()
            all_heard.clear()
            began = time.time()
            await asker.VM.rename("many-0", f"renamed-{n}")
            await all_heard.wait()
            delays += [at - began for at in heard]
            await asyncio.sleep(0.01)
        for listener in listeners:
            await listener.__aexit__(None, None, None)
    return statistics.quantiles(delays, n=100)[98] * 1000


async def measure() -> dict[str, float]:
    """All of it, on a stack of its own."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="xenops-many-") as folder:
        stack = Stack(Path(folder), log_level="warning")
        try:
            where = await stack.start()
            empty, registered = resident_kib(pid_of(stack)), 0
            async with connect(url=where.amqp, queue=where.queue, timeout_s=60.0) as xenops:
                for size in SIZES:
                    await fill(xenops, registered, size)
                    registered = size
                    rate, cost = await lives(where.amqp, where.queue, pid_of(stack))
                    found[f"lives/s at {size}"], found[f"cpu ms a life at {size}"] = rate, cost
                began = time.perf_counter()
                assert len(await xenops.VM.list()) == SIZES[-1]
                found["list of 10000, ms"] = (time.perf_counter() - began) * 1000
                found["KiB a registered VM"] = (resident_kib(pid_of(stack)) - empty) / SIZES[-1]
                for start in range(0, RUNNING, CALLERS):
                    tasks = [await xenops.VM.start(f"many-{n}", paused=False) for n in range(start, start + CALLERS)]
                    for task in tasks:
                        await xenops.finished(task)
                found["fan-out to 64, p99 ms"] = await fan_out(where.amqp, where.queue)
            part = await stack.kill("xenopsd")
            began = time.perf_counter()
            await stack.start_again(part)
            found["start-up with 10000, s"] = time.perf_counter() - began
            found["KiB a VM after start-up"] = (resident_kib(pid_of(stack)) - empty) / SIZES[-1]
        finally:
            await stack.stop()
    return found


if __name__ == "__main__":
    print(json.dumps(asyncio.run(measure()), indent=1))
