# SPDX-License-Identifier: Apache-2.0
"""`make bench-xen`: both toolstacks in one boot of the rig, and what came of it written down.

    python -m bench.xen [--runs N] [MEASUREMENT …]

Writes bench/latest-xen.json, and the section "On real Xen" of docs/performance.md when everything was measured.
"""

import argparse
import datetime
import json
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from tests.xen.rig import root, snapshot, suite
from tests.xen.rig.machine import Hardware, hardware
from tests.xen.rig.places import BUILD, elapsed, say
from tests.xen.rig.remote import RESULTS

TOP = Path(__file__).parents[2]
LATEST = TOP / "bench" / "latest-xen.json"
PAGE = TOP / "docs" / "performance.md"
HEADING = "## On real Xen\n"


def main() -> int:
    """Boot, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("measurements", nargs="*")
    options = parser.parse_intermixed_args()
    root.install_host_packages()
    machine = snapshot.up()
    try:
        machine.shell.put_checkout()
        words = shlex.join([f"{RESULTS}/bench.json", f"--runs={options.runs}", *options.measurements])
        status = suite.stream(machine, f"python -m bench.xen.inside {words}")
        if status:
            return status
        machine.shell.get_results(BUILD / "results")
    finally:
        machine.end()
    found = json.loads((BUILD / "results" / "bench.json").read_text())
    found |= {"date": datetime.datetime.now(datetime.UTC).date().isoformat(), "conditions": conditions(hardware())}
    LATEST.write_text(json.dumps(found, indent=2) + "\n")
    if not options.measurements:
        write_section(found)
    say(f"measured after {elapsed():.0f} s")
    return 0


def conditions(used: Hardware) -> str:
    """Where it was measured."""
    return (
        f"Xen 4.17 and Debian 12's dom0 ({used.dom0_mib} MiB) in QEMU ({used.accelerator}, "
        f"{used.vcpus} vCPU, {used.memory_mib} MiB) on {os.cpu_count()} cores"
    )


def write_section(found: dict[str, Any]) -> None:
    """The page's section, anew."""
    before, _, after = PAGE.read_text().partition(HEADING)
    _, following, rest = after.partition("\n## ")
    PAGE.write_text(f"{before.rstrip()}\n\n{HEADING}\n{section(found)}{following}{rest}")


def section(found: dict[str, Any]) -> str:
    """What was measured, as a table, and where a start's time goes."""
    rows = [row(each) for each in found["rows"]]
    kinds = list(found["steps"])
    steps = dict.fromkeys(step for kind in kinds for step in found["steps"][kind])
    table = [
        f"| {step} | " + " | ".join(f"{found['steps'][kind].get(step, 0) * 1000:.0f}" for kind in kinds) + " |"
        for step in steps
    ]
    return "\n".join(
        [
            f"`make bench-xen` measured this in one boot of the rig on {found['date']}: {found['conditions']}; all files",
            "are in memory, the kernel is in the cache. Same guests, in turn with xl 4.17; medians of "
            f"{found['runs']}, and the median of the paired ratios.",
            "",
            "| What | Ours | xl | Ratio | Aim |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "Where a start's time goes, by the steps of its task, in milliseconds:",
            "",
            f"| Step | {' | '.join(kinds)} |",
            f"|---|{'---|' * len(kinds)}",
            *table,
            "",
        ]
    )


def row(each: dict[str, Any]) -> str:
    """One line of the table."""
    peer = "" if each["peer"] is None else f"{each['peer']:.2f} {each['unit']}"
    ratio = "" if each["ratio"] is None else f"{each['ratio']:.2f}"
    return f"| {each['name']} | {each['ours']:.2f} {each['unit']} | {peer} | {ratio} | {each['aim']} |"


if __name__ == "__main__":
    sys.exit(main())
