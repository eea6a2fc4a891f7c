# SPDX-License-Identifier: Apache-2.0
"""A host that is up, saved once and restored in seconds; where the saved state does not hold up, a fresh boot.

A restored host has the clock of the day it was saved: it is set before anything else.
"""

import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.xen import guests
from tests.xen.rig.image import Image, image
from tests.xen.rig.machine import SNAPSHOT, Hardware, Machine, RigError, hardware, start, sweep
from tests.xen.rig.places import RECIPE, content_key, made, say
from tests.xen.rig.remote import CHECKOUT, VENV

BOOT_S = 420.0
# Done once before the state is saved, so that each restored host has the files in memory and xenstore its lasting parts.
WARM = f"""
{VENV}/bin/python -c 'import asyncio, pytest, msgspec, kombu, pika, cffi, hypothesis'
cd {CHECKOUT} && {VENV}/bin/pytest --collect-only -q tests/xen/acceptance >/dev/null
printf 'name="warm"\nkernel="{guests.GRUB_PV}"\nmemory=32\n' >/tmp/warm.cfg
xl create -e /tmp/warm.cfg >/dev/null && xl destroy warm && rm /tmp/warm.cfg || exit 1
cat /rig/guests/* /usr/lib/xen-4.17/boot/hvmloader /usr/libexec/xen-qemu-system-i386 >/dev/null
xl list >/dev/null && xenstore-ls >/dev/null && sync
"""


def key(machine: Hardware) -> str:
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, timeout=60).stdout
    recipe = [RECIPE / "machine.py", RECIPE / "snapshot.py"]
    return content_key([version, repr(machine), *recipe])


def saved() -> tuple[Image, Hardware, Path]:
    """The image, the hardware, and the disk that holds the saved state; all made when they are not there."""
    made_image, machine = image(), hardware()
    try:
        return made_image, machine, _saved(made_image, machine)
    except RigError as problem:
        if machine.accelerator == "tcg":
            raise
        say(f"KVM is of no use here, emulates: {problem}")
    machine = replace(machine, accelerator="tcg")
    return made_image, machine, _saved(made_image, machine)


def _saved(made_image: Image, machine: Hardware) -> Path:
    # Beside the disk that it goes on from: the one is worth nothing without the other.
    target = made_image.folder / f"saved-{key(machine)}"
    with made(target) as unfinished:
        if unfinished is not None:
            _boot_and_save(made_image, machine, unfinished)
    return target


def up(*, name: str | None = None, lan: int | None = None, deadline_s: int = 3600) -> Machine:
    """A host that answers: restored, or booted when the saved state is of no use."""
    made_image, machine, state = saved()
    sweep()
    say("restores the saved host")
    try:
        running = start(made_image, machine, saved=state, name=name, lan=lan, deadline_s=deadline_s)
        _or_end(running, ready, timeout_s=120)
    except RigError as problem:
        say(f"the saved state is of no use, boots afresh: {problem}")
        running = start(made_image, machine, saved=None, name=name, lan=lan, deadline_s=deadline_s)
        _or_end(running, _booted, timeout_s=BOOT_S)
    say("the host answers")
    return running


def _booted(machine: Machine, *, timeout_s: float) -> None:
    machine.wait_for_console("RIG-UP", timeout_s=timeout_s)
    ready(machine, timeout_s=180)


def _or_end(machine: Machine, wait: Callable[..., None], *, timeout_s: float) -> None:
    try:
        wait(machine, timeout_s=timeout_s)
    except BaseException:
        machine.end()
        raise


def ready(machine: Machine, *, timeout_s: float) -> None:
    """Until commands run inside and xenstore and Xen answer; sets the clock."""
    machine.wait_for_ssh(timeout_s=timeout_s)
    check = f"date -s @{time.time():.2f} >/dev/null && xenstore-read /local/domain/0/name && xl info >/dev/null"
    answer = machine.shell.run(check, check=False, timeout_s=timeout_s)
    if answer.returncode != 0:
        raise RigError(f"Xen does not answer in dom0: {answer.stdout}{answer.stderr}", machine)


def _boot_and_save(made_image: Image, machine: Hardware, target: Path) -> None:
    say(f"boots Xen and dom0 ({machine.accelerator}, {machine.vcpus} vCPU, {machine.memory_mib} MiB)")
    running = start(made_image, machine, saved=None)
    try:
        _booted(running, timeout_s=BOOT_S)
        say("dom0 is up, warms caches")
        running.shell.run(WARM, timeout_s=300)
        running.shell.close()
        monitor = running.monitor()
        problem = monitor.human(f"savevm {SNAPSHOT}")
        if problem.strip():
            raise RigError(f"QEMU could not save the state: {problem}", running)
        monitor.execute("quit")
        monitor.close()
        running.wait_for_end(timeout_s=60)
        (running.folder / "disk.qcow2").rename(target)
    finally:
        running.end()
    say("saved its state")
