# SPDX-License-Identifier: Apache-2.0
"""What is kept of a failed run: the serial line, Xen's log, xenstore, the services' logs; and the lines that tell.

Gathering never hides the failure: what cannot be had is noted and the rest is kept.
"""

import shutil
import subprocess
import time
from pathlib import Path
from xml.etree import ElementTree

from tests.xen.rig.machine import Machine
from tests.xen.rig.places import BUILD, say

INSIDE = {
    "xl-dmesg.log": "xl dmesg",
    "xl-list.log": "xl list -l; xl list",
    "xenstore.log": "xenstore-ls -f",
    "dom0-dmesg.log": "dmesg",
    "processes.log": "ps -ef --forest; losetup -a; ip -brief link",
    "xen-logs.log": "tail -n 400 /var/log/xen/*.log",
}
KEPT = 20
TELLING = ("RIG-PROBLEM", "(XEN) [", "Oops", "BUG:", "Kernel panic", "segfault", "Out of memory")


def keep(machine: Machine, *, name: str = "") -> Path:
    """Gathers all that tells what went wrong, into a folder of its own; prints the lines that matter most."""
    folder = BUILD / "failures" / (time.strftime("%Y%m%d-%H%M%S") + (f"-{name}" if name else ""))
    folder.mkdir(parents=True, exist_ok=True)
    for older in sorted(folder.parent.iterdir())[:-KEPT]:
        shutil.rmtree(older, ignore_errors=True)
    for source in (machine.log, machine.folder / "qemu.log"):
        if source.exists():
            shutil.copy(source, folder / source.name)
    if machine.alive:
        for target, command in INSIDE.items():
            _ask(machine, command, folder / target)
        try:
            machine.shell.get_results(folder / "results")
        except (subprocess.SubprocessError, OSError) as problem:
            (folder / "results.problem").write_text(str(problem))
    for line in telling(folder):
        say(line)
    say(f"kept in {folder}")
    return folder


def problems(folder: Path, *, lines_each: int = 12) -> list[str]:
    """Which tests failed and what they said last, from pytest's results among what was kept."""
    lines: list[str] = []
    for path in sorted((folder / "results").glob("*.xml")):
        for case in ElementTree.parse(path).iter("testcase"):
            for problem in (*case.iter("failure"), *case.iter("error")):
                said = [line for line in (problem.text or "").splitlines() if line.strip()]
                told = [line for line in said if line.startswith("E ")] or said
                lines += [
                    f"{case.get('classname')}::{case.get('name')}",
                    *(f"    {line}" for line in told[-lines_each:]),
                ]
    return lines


def telling(folder: Path, *, at_most: int = 40) -> list[str]:
    """The lines of the kept logs that most likely say what happened, each with the file that it stands in."""
    lines: list[str] = []
    for path in sorted(folder.glob("*.log")):
        if path.name in {"xenstore.log", "xl-list.log"}:
            continue
        text = path.read_text(errors="replace").splitlines()
        lines += [f"{path.name}: {line.strip()}" for line in text if any(word in line for word in TELLING)]
    return lines[-at_most:]


def _ask(machine: Machine, command: str, target: Path) -> None:
    try:
        answer = machine.shell.run(command, check=False, timeout_s=60)
        target.write_text(answer.stdout + answer.stderr)
    except (subprocess.SubprocessError, OSError) as problem:
        target.write_text(f"could not be had: {problem}\n")
