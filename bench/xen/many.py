# SPDX-License-Identifier: Apache-2.0
"""Twenty guests at once: how long until all run, what both toolstacks weigh then, what watching them costs, and their end.

The guests are paused, so that none of their firmware takes the one processor that the toolstacks have.
"""

import asyncio
import os
import time
from collections.abc import Iterable
from pathlib import Path

from bench.xen.desk import Desk, Row, alone, row, seconds, xl

COUNT = 20
IDLE_S = 20.0
_TICKS = os.sysconf("SC_CLK_TCK")


async def measure(desk: Desk, runs: int) -> list[Row]:
    """All at once, by us and by xl in turn; memory and idleness while they are there."""
    ours = [await desk.add(desk.grub(f"many-{n}")) for n in range(COUNT)]
    theirs = [desk.grub(f"xl-many-{n}") for n in range(COUNT)]
    starts, stops, memory = [], [], []
    for turn in range(runs):
        begun = await seconds(asyncio.gather(*(desk.start(vm, paused=True) for vm in ours)))
        our_mib = resident_mib(processes("xenopsd"))
        if turn == 0:
            idle = await _idle(desk)
        ended = await seconds(asyncio.gather(*(desk.shutdown(vm) for vm in ours)))
        xl_begun = await seconds(asyncio.gather(*(xl("create", "-p", str(path)) for path in theirs)))
        memory.append((our_mib, resident_mib(processes("xl"))))
        xl_ended = await seconds(asyncio.gather(*(xl("destroy", path.stem) for path in theirs)))
        starts.append((begun, xl_begun))
        stops.append((ended, xl_ended))
    for vm in ours:
        await desk.xenops.VM.remove(vm)
    return [
        row(f"{COUNT} guests started at once", "s", starts),
        row(f"{COUNT} guests ended at once", "s", stops),
        row(f"memory with {COUNT} guests: xenopsd and builders, one xl each", "MiB", memory),
        alone(f"CPU of idle xenopsd with {COUNT} guests", "%", idle, "near 0"),
    ]


async def _idle(desk: Desk) -> float:
    """Percent of the processor that xenopsd and its builders take while nothing happens."""
    await asyncio.sleep(5)  # what the starts have left to be told is told
    pids = processes("xenopsd")
    before, began = _cpu_s(pids), time.perf_counter()
    await asyncio.sleep(IDLE_S)
    return 100 * (_cpu_s(pids) - before) / (time.perf_counter() - began)


def processes(word: str) -> list[int]:
    """Those whose command line begins with that program, or has it as a module."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_text().split("\0")
        except OSError:
            continue
        names = [Path(text).name for text in words[:3]]
        if word in names[:2] or any(text.startswith(f"{word}.") for text in names):
            found.append(int(folder.name))
    return found


def resident_mib(pids: Iterable[int]) -> float:
    """What these processes have in memory, pages that they share counted once (proportional set size)."""
    kib = 0
    for pid in pids:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        kib += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return kib / 1024


def _cpu_s(pids: Iterable[int]) -> float:
    stats = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(stat[11]) + int(stat[12]) for stat in stats) / _TICKS
