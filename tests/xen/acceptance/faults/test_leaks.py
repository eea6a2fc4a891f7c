# SPDX-License-Identifier: Apache-2.0
"""What the daemon holds is after many lives of guests what it was before: descriptors, mappings, event channels, children.

By default a few lives; XEN_LEAKS=20: so many rounds, of every kind of guest, with suspending, resuming and failing.
"""

import asyncio
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance.faults import stacked
from tests.xen.acceptance.faults.stacked import VM, Stage, XenLab, drive, machine
from xenops.errors import IoError
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenopsd.store.machine import Machine

ROUNDS = int(os.environ.get("XEN_LEAKS") or 0)
# Pools start their threads when they are first needed at once: asyncio's has five on one processor, the hypercalls' two.
POOLED = 7
WITHIN_S = 300 * (2 + ROUNDS)
# A handle of libxencall keeps up to four pages for the arguments of its next calls, as many as were ever needed at once
# (BUFFER_CACHE_SIZE of tools/libs/call/buffer.c): how many that is differs from run to run, so they have a bound instead.
HYPERCALLS, PAGES_A_HANDLE, PAGE = "/dev/xen/hypercall", 4, 4096
EVENT_CHANNELS = "/usr/lib/xen-4.17/bin/lsevtchn"


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stack for all lives."""
    for stage in stacked.stage(tmp_path_factory.mktemp("leaks")):
        for name in ("one.img", "two.img"):
            stage.lab.image(name)
        yield stage


def holdings(pid: int) -> Counter[str]:
    """What a process holds: how many of each kind."""
    found: Counter[str] = Counter()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(OSError):
            found["descriptor " + str(descriptor.readlink()).partition(":[")[0]] += 1
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if HYPERCALLS not in line and ("/dev/xen" in line or "privcmd" in line or "gntdev" in line):
            found["mapping " + line.split()[-1]] += 1
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if int((folder / "stat").read_text().rpartition(")")[2].split()[1]) == pid:
                found["child " + (folder / "cmdline").read_text().replace("\0", " ")[:60]] += 1
    channels = subprocess.run([EVENT_CHANNELS, "0"], capture_output=True, text=True, check=True).stdout
    found["event channels of the control domain"] = len(channels.splitlines())
    return found


def argument_pages(pid: int) -> int:
    """Pages that a process holds for the arguments of hypercalls."""
    spans = (
        line.split()[0].split("-") for line in Path(f"/proc/{pid}/maps").read_text().splitlines() if HYPERCALLS in line
    )
    return sum(int(end, 16) - int(start, 16) for start, end in spans) // PAGE


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def resident_kib(pid: int) -> int:
    [line] = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1])


async def hot_plug(lab: XenLab) -> None:
    """A guest that never runs: a drive comes and goes."""
    its = machine(
        "pv", drive("one", "xvda", str(lab.folder / "one.img")), drive("two", "xvdb", str(lab.folder / "two.img"))
    )
    await lab.add(its)
    await lab.done(lab.xenops.VM.start(VM))
    for device in (lab.xenops.VBD, lab.xenops.VIF):
        id = DeviceId(vm=VM, dev="two" if device is lab.xenops.VBD else "0")
        await lab.done(device.unplug(id))
        await lab.done(device.plug(id))
    await ended(lab)


async def emulated(lab: XenLab) -> None:
    """A guest with a device model runs for a moment."""
    await lab.add(machine("hvm", drive("disk", "hda", str(guests.HVM_DISK))))
    await lab.done(lab.xenops.VM.start(VM, paused=False))
    await ended(lab)


async def suspended(lab: XenLab) -> None:
    """A guest sleeps and wakes."""
    its = machine("linux", drive("one", "xvda", str(lab.folder / "one.img")))
    await lab.add(its)
    await lab.done(lab.xenops.VM.start(VM, paused=False))
    await lab.up(its, answers=True)
    image = Local(path=str(lab.folder / "image"))
    await lab.done(lab.xenops.VM.suspend(VM, image))
    await lab.done(lab.xenops.VM.resume(VM, image, paused=False))
    await ended(lab)


async def refused(lab: XenLab) -> None:
    """A guest's disk is missing."""
    its: Machine = machine("pv", drive("one", "xvda", str(lab.folder / "one.img")), drive("bad", "xvdb", "/nowhere"))
    await lab.add(its)
    with pytest.raises(IoError):
        await lab.done(lab.xenops.VM.start(VM))
    await ended(lab)


async def ended(lab: XenLab) -> None:
    await lab.done(lab.xenops.VM.shutdown(VM))
    await lab.xenops.VM.remove(VM)


LIVES = (hot_plug, emulated, suspended, refused) if ROUNDS else (hot_plug, emulated)


@pytest.mark.timeout(WITHIN_S + 60)
def test_nothing_is_held_longer_than_a_guest_lives(at: Stage, tmp_path: Path) -> None:
    async def story(lab: XenLab) -> None:
        empty = await lab.look()
        await asyncio.gather(
            *(lab.xenops.HOST.stat() for _ in range(50))
        )  # all threads of the pools, and their handles
        for life in LIVES:
            await life(lab)  # whatever else is opened once and kept
        assert not await lab.changes(empty)
        ours = lab.stack.xenopsd.pid
        forkexecd = next(process.pid for part, process in lab.stack.running if part.program == "forkexecd")
        before, workers = {pid: holdings(pid) for pid in (ours, forkexecd)}, threads(ours)
        resident = resident_kib(ours)
        for _ in range(ROUNDS or 1):
            for life in LIVES:
                await life(lab)
        assert not await lab.changes(empty)
        after = await settled(before)
        print(f"{resident} KiB resident before, {resident_kib(ours)} after; {workers} and {threads(ours)} threads")
        for pid, held in after.items():
            assert (held - before[pid], before[pid] - held) == (Counter(), Counter()), "more of this, less of that"
            assert argument_pages(pid) <= PAGES_A_HANDLE * held[f"descriptor {HYPERCALLS}"]
        assert threads(ours) <= workers + POOLED

    at.tell(story(at.lab), tmp_path, within_s=WITHIN_S)


async def settled(before: dict[int, Counter[str]]) -> dict[int, Counter[str]]:
    """What they hold, once that is as before or stays something else: connections take a moment to close."""
    for _ in range(100):
        if (now := {pid: holdings(pid) for pid in before}) == before:
            break
        await asyncio.sleep(0.1)
    return now
