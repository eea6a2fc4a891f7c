# SPDX-License-Identifier: Apache-2.0
"""Suspend to a file and back: megabytes a second, of a guest that answers."""

import asyncio
import os
from pathlib import Path

from bench.xen.desk import Desk, Row, row, seconds, xl
from tests.xen import guests
from tests.xen.acceptance import console
from xenops.types.disk import Local

MB = 1e6


async def measure(desk: Desk, runs: int) -> list[Row]:
    """Ours and xl's in turn, each with a guest of its own that is there for all of the runs."""
    vm, theirs = (
        await desk.add(desk.linux("sleeper", "pv", guests.LINUX_ELF)),
        desk.linux("xl-sleeper", "pv", guests.LINUX_ELF),
    )
    await desk.start(vm)
    _up((await desk.xenops.VM.stat(vm)).state.domids[0])
    await xl("create", str(theirs))
    _up(int(await xl("domid", theirs.stem)))
    image, their_image = desk.folder / "sleeper.image", desk.folder / "xl-sleeper.image"
    saves, kept, restores = [], [], []
    for _ in range(runs):
        slept = await seconds(desk.done(desk.xenops.VM.suspend(vm, disk=Local(path=str(image)))))
        size = image.stat().st_size / MB
        woken = await seconds(desk.done(desk.xenops.VM.resume(vm, disk=Local(path=str(image)), paused=False)))
        xl_slept = await seconds(xl("save", theirs.stem, str(their_image)))
        xl_kept = xl_slept + await seconds(asyncio.to_thread(_on_disk, their_image))
        their_size = their_image.stat().st_size / MB
        xl_woken = await seconds(xl("restore", str(their_image)))
        saves.append((size / slept, their_size / xl_slept))
        kept.append((size / slept, their_size / xl_kept))
        restores.append((size / woken, their_size / xl_woken))
        image.unlink(missing_ok=True)
        their_image.unlink(missing_ok=True)
    await desk.shutdown(vm)
    await desk.xenops.VM.remove(vm)
    await xl("destroy", theirs.stem)
    return [
        row("suspend of a PV guest to a file, by xl save, which leaves it in memory", "MB/s", saves, aim=">= 1"),
        row("suspend of a PV guest to a file, by xl save and fsync, as ours", "MB/s", kept, aim=">= 1"),
        row("resume of it, by xl restore", "MB/s", restores, aim=">= 1"),
    ]


def _on_disk(image: Path) -> None:
    """Until a power cut cannot take it away, as ours is when its task has completed."""
    descriptor = os.open(image, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _up(domid: int) -> None:
    with console.attached(domid) as guest:
        guest.wait(guests.LINUX_UP)
