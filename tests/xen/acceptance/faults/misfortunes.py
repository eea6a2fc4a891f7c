# SPDX-License-Identifier: Apache-2.0
"""What the tests of faults do to a host and its processes, and what they look at."""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import pytest

from tests.xen.acceptance import world
from tests.xen.acceptance.faults.stacked import XenLab
from xenops.errors import DoesNotExist, Fault
from xenops.types.task import Pending
from xenops.types.vm import PowerState, VmState
from xenopsd.backends.xen.xenstore.client import XenStore
from xenopsd.store.machine import Machine


@asynccontextmanager
async def registered(lab: XenLab, *machines: Machine) -> AsyncIterator[None]:
    """Whatever becomes of them, they can be stopped and removed."""
    for each in machines:
        await lab.add(each)
    try:
        yield
    finally:
        for each in machines:
            with suppress(DoesNotExist):
                await lab.done(lab.xenops.VM.shutdown(each.id))
                await lab.xenops.VM.remove(each.id)


async def refused(lab: XenLab, kind: type[Fault], its: Machine, *words: str) -> Fault:
    """It does not start, for that reason; nothing of it is there, and its record is."""
    before = await lab.look()
    with pytest.raises(kind) as caught:
        await lab.done(lab.xenops.VM.start(its.id))
    assert type(caught.value) is kind
    for word in words:
        assert word in str(caught.value)
    assert (await lab.stat(its.id)).power_state is PowerState.HALTED
    assert not await lab.changes(before)
    return caught.value


async def begun(lab: XenLab, task: str, step: str) -> None:
    """Wait until a task is at that step."""
    while True:
        found = await lab.xenops.Task.wait(task, 0.05)
        assert isinstance(found.state, Pending), found
        if found.subtasks and found.subtasks[-1].name == step:
            return


def script(folder: Path, text: str) -> str:
    path = folder / "hotplug.sh"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def children(parent: int, words: str) -> list[int]:
    """The processes that it has begun and that are called so."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and words in (folder / "cmdline").read_text().replace("\0", " "):
                found.append(int(folder.name))
    return found


def has_unread(pid: int) -> None:
    """Wait until something lies in a socket of that process."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        table = subprocess.run(["ss", "-xHnp"], capture_output=True, text=True, check=True).stdout
        if any(f"pid={pid}," in line and int(line.split()[2]) > 0 for line in table.splitlines()):
            return
        time.sleep(0.1)
    raise AssertionError(f"nobody writes to {pid}")


def has_grown(path: Path, size: int = 1) -> None:
    """Wait until a file has that many bytes."""
    deadline = time.monotonic() + 120
    while not path.exists() or path.stat().st_size < size:
        assert time.monotonic() < deadline, f"{path} does not grow"
        time.sleep(0.02)


def called(words: str) -> list[int]:
    """All processes that are called so."""
    return [
        int(folder.name)
        for folder in Path("/proc").glob("[0-9]*")
        if words in (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    ]


async def same(lab: XenLab, state: VmState, whole: world.World) -> None:
    """The domain is the one of before, with everything that it had."""
    now = await lab.stat()
    assert (now.domids, now.power_state) == (state.domids, state.power_state)
    assert not await lab.changes(whole)


async def connecting(domid: int) -> None:
    """Wait until the guest's driver begins with a device; it is far from done with it."""
    fronts = [f"/local/domain/{domid}/device/{it}/state" for it in ("vbd/51712", "vif/0")]
    xs = await XenStore.connect()
    try:
        await xs.wait_for(fronts, lambda values: any(value in ("3", "4") for value in values.values()), 120)
    finally:
        await xs.close()


async def has_terminal(domid: int) -> None:
    """Wait until its console's terminal is there."""
    path = f"/local/domain/{domid}/console/tty"
    xs = await XenStore.connect()
    try:
        await xs.wait_for([path], lambda values: Path(values[path] or "/nowhere").exists(), 120)
    finally:
        await xs.close()


async def gone(domid: int) -> None:
    """Wait until its tree is."""
    xs = await XenStore.connect()
    top = f"/local/domain/{domid}"
    try:
        await xs.wait_for([top], lambda values: values[top] is None, 120)
    finally:
        await xs.close()


async def stuttering(lab: XenLab, task: str) -> None:
    """xenstored works a twentieth of its time, until the task has ended."""
    [xenstored] = called("oxenstored")
    while isinstance((await lab.xenops.Task.stat(task)).state, Pending):
        with stopped(xenstored):
            await asyncio.sleep(0.2)
        await asyncio.sleep(0.01)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Within this block that process does nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with suppress(ProcessLookupError):  # it was killed meanwhile
            os.kill(pid, signal.SIGCONT)


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of 8 MiB."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
