# SPDX-License-Identifier: Apache-2.0
"""One guest started: until it runs, and as a person sees it, from the command to the prompt; and where the time goes."""

import statistics
from pathlib import Path
from typing import Any

from bench.xen.desk import Desk, Row, row, seconds, xl
from tests.xen import guests
from xenops.types.task import Completed, Pending

CASES = (
    ("pv", "ELF", guests.LINUX_ELF, "<= 0.35"),
    ("pvh", "ELF", guests.LINUX_ELF, "<= 0.35"),
    ("pv", "bzImage", guests.LINUX_BZIMAGE, "<= 0.08"),
    ("pvh", "bzImage", guests.LINUX_BZIMAGE, "<= 0.08"),
)


async def measure(desk: Desk, runs: int) -> tuple[list[Row], dict[str, dict[str, float]]]:
    """The comparisons, and the steps of each kind's start."""
    rows, steps = [], {}
    for kind, packing, kernel, aim in CASES:
        name = f"{kind}-{packing.lower()}"
        theirs, vm = desk.linux(f"xl-{name}", kind, kernel), await desk.add(desk.linux(name, kind, kernel))
        await desk.start(vm)  # the kernel is in the cache from here on, as every file is in memory for both
        await desk.shutdown(vm)
        turns = [await _turn(desk, vm, name, theirs) for _ in range(runs)]
        what = f"start of a {kind.upper()} guest, {packing}"
        rows.append(row(f"{what}: request to Running", "s", [(asked, peer) for asked, _, peer, _ in turns], aim=aim))
        rows.append(row(f"{what}: the whole command", "s", [(typed, peer) for _, typed, peer, _ in turns], aim=aim))
        steps[name] = {step: statistics.median(turn[3][step] for turn in turns) for step in turns[0][3]}
        for step, took in steps[name].items():
            print(f"    {step:<40} {took * 1000:7.0f} ms", flush=True)
        await desk.xenops.VM.remove(vm)
    return rows, steps


async def _turn(desk: Desk, vm: str, name: str, theirs: Path) -> tuple[float, float, float, dict[str, float]]:
    """Ours by request, ours by command, xl's; and the steps of the first."""
    task = ""

    async def ask() -> None:
        nonlocal task
        task = await desk.xenops.VM.start(vm, paused=False)
        while isinstance((await desk.xenops.Task.wait(task, timeout=30.0)).state, Pending):
            continue

    asked = await seconds(ask())
    steps = _steps(await desk.xenops.Task.stat(task))
    await desk.xenops.Task.destroy(task)
    await desk.shutdown(vm)
    typed = await seconds(desk.cli("start", name))
    await desk.shutdown(vm)
    peer = await seconds(xl("create", str(theirs)))
    await xl("destroy", theirs.stem)
    return asked, typed, peer, steps


def _steps(task: Any) -> dict[str, float]:
    return {it.name.partition(" ")[0]: it.state.duration_s for it in task.subtasks if isinstance(it.state, Completed)}
