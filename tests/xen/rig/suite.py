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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.xen.rig import failures
from tests.xen.rig.machine import Machine
from tests.xen.rig.places import BUILD, ROOT, elapsed, say
from tests.xen.rig.remote import CHECKOUT, RESULTS, VENV

SUITE = "tests/xen/acceptance"
CONTRACT = "tests/contracts/backend"
CONTRACT_FILES = ("test_domains.py", "test_devices.py", "test_accounting.py")  # all of it: XEN_CONTRACT=all
# What of it is run every time: each kind of guest, each that has to answer, what only the real thing can show.
CONTRACT_SAMPLE = (
    "test_domains.py::test_a_domain_takes_its_memory_and_gives_it_back[xen-hvm]",
    "test_domains.py::test_pause_and_unpause_are_idempotent_and_seen[xen-hvm]",
    "test_domains.py::test_a_machine_larger_than_the_host_does_not_start_and_leaves_nothing[xen-pvh]",
    "test_domains.py::test_a_willing_guest_shuts_down_when_asked[xen-pv-ShutdownReason.REBOOT]",
    "test_domains.py::test_suspend_and_resume[xen-pv]",
    "test_domains.py::test_domains_outlive_the_daemon[xen-pvh]",
    "test_devices.py::test_a_drive_is_plugged_and_unplugged[xen-pv]",
    "test_devices.py::test_an_interface_and_its_settings[xen-pv]",
    "test_devices.py::test_a_pci_device_belongs_to_one_guest[xen]",
)
LONGER = ("XEN_CONTRACT", "XEN_KILL", "XEN_FAULTS", "XEN_LEAKS")  # told to the tests inside; see README.md
NOTHING_CHOSEN = 5  # pytest's status when it has collected no test
_PYTEST = f"{VENV}/bin/pytest -v -p no:cacheprovider -p no:xdist -o timeout=600 -o tmp_path_retention_policy=failed --durations=5"


def files() -> list[str]:
    """All of the suite; the longest texts first, which is the best guess at the longest times."""
    found = sorted((ROOT / SUITE).rglob("test_*.py"), key=lambda path: -path.stat().st_size)
    contract = [f"{CONTRACT}/{name}" for name in CONTRACT_FILES] if _all_of_the_contract() else [CONTRACT]
    return [*contract, *(path.relative_to(ROOT).as_posix() for path in found)]


def chosen(words: Sequence[str]) -> list[str]:
    """Pytest's words: a file of the suite may be called by its name alone, and without a file all of the suite is meant."""
    found = {path.name: path.relative_to(ROOT).as_posix() for path in (ROOT / SUITE).rglob("test_*.py")}
    full = []
    for word in words:
        name, colons, test = word.partition("::")
        full.append(f"{found.get(name, name)}{colons}{test}")
    return full if any(word.startswith("tests/") for word in full) else [*full, SUITE]


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


@dataclass
class Outcome:
    """How one pytest ended, and what its failed tests said."""

    status: int
    problems: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return self.status in {0, NOTHING_CHOSEN}


def run(machine: Machine, words: Sequence[str], *, name: str = "chosen", label: str = "") -> Outcome:
    """One pytest with these words; the traces of a failure are kept."""
    # /tmp is memory, so pytest's own temporary folders go to the disk.
    settings = " ".join([f"XEN_RIG_RESULTS={RESULTS}", *(f"{key}={shlex.quote(value)}" for key, value in _asked())])
    line = f"rm -rf {RESULTS}/* && {settings} {_PYTEST} --basetemp=/rig/tmp"
    outcome = Outcome(stream(machine, f"{line} --junitxml={RESULTS}/{name}.xml {shlex.join(words)}", label=label))
    if outcome.passed:
        machine.shell.get_results(BUILD / "results")
    else:
        outcome.problems = failures.problems(failures.keep(machine, name=name))
    return outcome


def _asked() -> list[tuple[str, str]]:
    """What the environment asks of the suite; the rig's own words are not for the tests."""
    mine = ("XEN_RIG_",)
    return sorted(
        (key, value) for key, value in os.environ.items() if key.startswith("XEN_") and not key.startswith(mine)
    )


def run_all(machines: Sequence[Machine]) -> dict[str, Outcome]:
    """Every file of the suite, each in the next machine that is free."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()
    outcomes: dict[str, Outcome] = {}
    for path in files():
        waiting.put(path)
        outcomes[path] = Outcome(1, ["it was not run to its end"])  # until it was, whatever ends its machine

    def work(machine: Machine, label: str) -> None:
        while machine.alive:
            try:
                path = waiting.get_nowait()
            except queue.Empty:
                return
            outcomes[path] = run_file(machine, path, label=label)

    workers = [threading.Thread(target=work, args=(machine, f" {number}|")) for number, machine in enumerate(machines)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return outcomes


def run_file(machine: Machine, path: str, *, label: str = "") -> Outcome:
    """One file of the suite."""
    name = path.rpartition("/")[2].removesuffix(".py")
    words = [path]
    if path.startswith(CONTRACT):
        words = [path, "-k", "xen"] if _all_of_the_contract() else [f"{path}/{test}" for test in CONTRACT_SAMPLE]
    return run(machine, words, name=name, label=label)


def _all_of_the_contract() -> bool:
    return os.environ.get("XEN_CONTRACT") == "all"


def tell(outcomes: Mapping[str, Outcome], word: str = "FAILED") -> None:
    """Last of all, so that whoever sees only the end of a long log sees why."""
    for path, outcome in outcomes.items():
        if not outcome.passed:
            say(f"{word} {path}")
            for line in outcome.problems:
                say(f"    {line}")
