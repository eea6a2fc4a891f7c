# SPDX-License-Identifier: Apache-2.0
"""The I/O priority of a drive: that of the kernel threads which do its I/O, set by ionice(1)."""

import asyncio
import logging
from pathlib import Path

from xenops.errors import ProgramFailed
from xenops.types.process import Program
from xenops.types.vbd import IoniceClass, Qos
from xenopsd.backends.port import RunProgram
from xenopsd.backends.xen.devices.connection import Place
from xenopsd.backends.xen.xenstore.client import XenStore

log = logging.getLogger(__name__)

_IONICE = "/usr/bin/ionice"
_CLASSES = {IoniceClass.REAL_TIME: 1, IoniceClass.BEST_EFFORT: 2, IoniceClass.IDLE: 3}
_PROC = Path("/proc")


async def prioritise(xs: XenStore, run_program: RunProgram, place: Place, qos: Qos | None) -> None:
    """Give all threads of a connected drive that priority, or the usual one. Raises `ProgramFailed`."""
    pids = await threads(xs, place)
    if not pids:
        log.warning("%s has no thread of its own whose priority could be set", place.back)
        return
    argv = [_IONICE, *words(qos), "-p", *map(str, pids)]
    ended = await run_program(Program(argv=argv, timeout_s=10.0))
    if ended.timed_out or ended.code != 0:
        raise ProgramFailed(
            _IONICE, f"it ended with code {ended.code}: {ended.stderr.decode('utf-8', 'replace')[:200]}"
        )


def words(qos: Qos | None) -> list[str]:
    """The priority, as ionice is told it."""
    if qos is None:
        return ["-c", "0"]
    level = [] if qos.ionice is IoniceClass.IDLE else ["-n", str(qos.level)]
    return ["-c", str(_CLASSES[qos.ionice]), *level]


async def threads(xs: XenStore, place: Place, proc: Path = _PROC) -> list[int]:
    """Those that the back end tells of; Linux's blkback tells nothing, and names them `<domid>.<dev>-<queue>`."""
    queues = [name for name in await xs.ls(place.back) if name.startswith("queue-")]
    paths = [f"{place.back}/kthread-pid", *(f"{place.back}/{queue}/kthread-pid" for queue in queues)]
    told = [int(pid) for pid in await xs.read_many(paths) if pid is not None and pid.isascii() and pid.isdigit()]
    if told:
        return told
    dev = await xs.read(f"{place.back}/dev")
    return await asyncio.to_thread(_named, f"{place.domid}.{dev}-", proc) if dev else []


def _named(prefix: str, proc: Path) -> list[int]:
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit():
            continue
        try:
            name = (folder / "comm").read_text()
        except OSError:
            continue  # it has ended
        if name.startswith(prefix):
            found.append(int(folder.name))
    return sorted(found)
