# SPDX-License-Identifier: Apache-2.0
"""The acceptance suite inside dom0: pytest's words over ssh, its lines back as they come, its results at the end.

The whole suite is shared out file by file among several machines, one for each core; whatever is asked for by name runs
in one. It starts and ends no machine.
"""

import os
import queue
import shlex
import subprocess
import threading
from collections.abc import Sequence

from tests.xen.rig import failures
from tests.xen.rig.machine import Machine
from tests.xen.rig.places import BUILD, ROOT, elapsed, say
from tests.xen.rig.remote import CHECKOUT, RESULTS, VENV

SUITE = "tests/xen/acceptance"
CONTRACT = (
    "tests/contracts/backend/test_domains.py",
    "tests/contracts/backend/test_devices.py",
)  # with XEN_CONTRACT set
NOTHING_CHOSEN = 5  # pytest's status when it has collected no test
_PYTEST = f"{VENV}/bin/pytest -v -p no:cacheprovider -p no:xdist -o timeout=600 --durations=5"


def files() -> list[str]:
    """All of the suite; the longest texts first, which is the best guess at the longest times."""
    found = sorted((ROOT / SUITE).glob("test_*.py"), key=lambda path: -path.stat().st_size)
    contract = CONTRACT if os.environ.get("XEN_CONTRACT") else ()
    return [*contract, *(path.relative_to(ROOT).as_posix() for path in found)]


def stream(machine: Machine, line: str, *, label: str = "") -> int:
    """Runs it in this checkout, each line of its output behind the seconds since the rig began."""
    command = machine.shell.command(f"cd {CHECKOUT} && PATH={VENV}/bin:$PATH && {line}", "-T")
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        try:
            for text in process.stdout:
                print(f"[{elapsed():5.0f} s]{label} {text.rstrip()}", flush=True)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def run(machine: Machine, words: Sequence[str], *, name: str = "chosen", label: str = "") -> int:
    """One pytest with these words; the traces of a failure are kept."""
    # /tmp is memory, so pytest's own temporary folders go to the disk.
    settings = f"XEN_RIG_RESULTS={RESULTS} XEN_CONTRACT={shlex.quote(os.environ.get('XEN_CONTRACT', ''))}"
    line = f"rm -rf {RESULTS}/* && {settings} {_PYTEST} --basetemp=/rig/tmp"
    status = stream(machine, f"{line} --junitxml={RESULTS}/{name}.xml {shlex.join(words)}", label=label)
    if status in {0, NOTHING_CHOSEN}:
        machine.shell.get_results(BUILD / "results")
    else:
        failures.keep(machine, name=name)
    return status


def run_all(machines: Sequence[Machine]) -> int:
    """Every file of the suite, each in the next machine that is free; the number of files that failed."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    for path in files():
        waiting.put(path)
    failed: list[str] = []

    def work(machine: Machine, label: str) -> None:
        while machine.alive:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                return
            failed.append(path)  # until it has passed: whatever ends this thread, the file does not count as well
            name = path.rpartition("/")[2].removesuffix(".py")
            chosen = [path, "-k", "xen"] if path in CONTRACT else [path]
            if run(machine, chosen, name=name, label=label) == 0:
                failed.remove(path)

    workers = [threading.Thread(target=work, args=(machine, f" {number}|")) for number, machine in enumerate(machines)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    failed += [waiting.get_nowait() for _ in range(waiting.qsize())]
    for path in failed:
        say(f"FAILED {path}")
    return len(failed)
