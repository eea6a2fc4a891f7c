# SPDX-License-Identifier: Apache-2.0
"""What a Xen host holds at one moment, so that a test can show that it left nothing behind.

Domains, xenstore, loop devices, network interfaces, processes, event channels, what Xen's daemons and we have open. A grant
that somebody still maps needs no look of its own: the domain that gave it stays, nameless, in the list. It only looks, and
takes three programs to do so.
"""

import os
import re
import subprocess
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

# Empty directories that Debian's own tools make on first use and keep.
LASTING = re.compile(
    r"/(libxl|vm|xenopsd(/\w+)?|local|tool|local/pool|local/domain(/0(/backend(/\w+)?|/device-model|/console)?)?)( = \"\")?$"
)

_REMOTE = re.compile(r"Interdomain \((\w+)\)(?: - Remote Domain (\d+))?")
_DAEMONS = ("xenstored", "oxenstored", "xenconsoled")

World = frozenset[str]


def look() -> World:
    """The host as it is now, one line for each thing."""
    found = {f"xenstore {line}" for line in _run("xenstore-ls", "-f") if not LASTING.match(line)}
    found |= {f"domain {line.split()[1]} {line.split()[0]}" for line in _run("xl", "list")[1:]}
    found |= {f"loop {device} {file}" for device, file in loops()}
    found |= {f"interface {path.name}" for path in Path("/sys/class/net").iterdir()}
    return frozenset(found | _processes() | _event_channels() | _open_files())


def loops() -> list[tuple[str, str]]:
    """Each loop device that is in use, and its file. One that goes while we look is gone."""
    found = []
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with suppress(OSError):
            found.append((backing.parts[3], backing.read_text().strip()))
    return found


def settle(before: World, *, timeout_s: float = 60) -> list[str]:
    """What differs from before, once it differs no more or the time is up; + is new, - is gone."""
    deadline = time.monotonic() + timeout_s
    while True:
        now = look()
        changes = [f"- {line}" for line in sorted(before - now)] + [f"+ {line}" for line in sorted(now - before)]
        if not changes or time.monotonic() > deadline:
            return changes
        time.sleep(0.3)


def _run(*command: str) -> list[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return [line.rstrip() for line in done.stdout.splitlines()]


def _event_channels() -> set[str]:
    """The control domain's with others, by the other's number; interrupts come and go with their devices."""
    [program] = Path("/usr/lib").glob("xen-4.*/bin/lsevtchn")
    found = Counter(_REMOTE.findall("\n".join(_run(str(program), "0"))))
    return {f"event channel {kind} domain {other} ({count})" for (kind, other), count in found.items()}


def _open_files() -> set[str]:
    """What Xen's daemons and this process have open of Xen and of devices, by name and number."""
    found: Counter[str] = Counter()
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            name = (folder / "comm").read_text().strip()
            ours = folder.name == str(os.getpid())
            for file in (folder / "fd").iterdir() if ours or name in _DAEMONS else ():
                with suppress(OSError):  # it has been closed meanwhile
                    target = re.sub(r"\d+", "N", os.readlink(file))
                    if target.startswith(("/dev/xen/", "/dev/loop", "/dev/pt", "/dev/net/")):
                        found[f"{'pytest' if ours else name} {target}"] += 1
    return {f"open file {what} ({count})" for what, count in found.items()}


def _processes() -> set[str]:
    """Children of this process, and those that nobody waits for, and how many run the same command.

    Not what others do over ssh meanwhile; and not their numbers: what a test kills may be started again.
    """
    found: Counter[str] = Counter()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except (OSError, IndexError):
            continue  # it has ended
        if command and parent in {1, os.getpid()} and "sleep infinity" not in command:
            found[command] += 1
    return {f"process {command} ({count})" for command, count in found.items()}
