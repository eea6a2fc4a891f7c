# SPDX-License-Identifier: Apache-2.0
"""The rig's command line: build, test, shell, run; up, sync, down for a machine that stays; clean.

python -m tests.xen.rig test                      the whole acceptance suite, in a machine of its own
python -m tests.xen.rig test -k grub              pytest's own words follow
python -m tests.xen.rig up box                    a machine that stays (two hours at most)
python -m tests.xen.rig test --on box -k grub     in that machine; also `run --on box xl info`, `shell --on box`
"""

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from tests.xen.rig import failures, root, snapshot, suite
from tests.xen.rig.machine import Machine, RigError
from tests.xen.rig.places import BUILD, elapsed, say
from tests.xen.rig.remote import CHECKOUT, VENV, CommandError

STAYS_S = 7200


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that machines are ended
    options, rest = _parser().parse_known_args()
    root.install_host_packages()
    try:
        status: int = options.do(options, [word for word in rest if word != "--"])
    except (RigError, CommandError) as problem:
        say(str(problem))
        return 1
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.xen.rig", description="A real Xen host, emulated.")
    words = parser.add_subparsers(required=True)
    for do in (build, test, run, shell, up, sync, down, clean):
        word = words.add_parser(do.__name__, help=(do.__doc__ or "").splitlines()[0])
        word.set_defaults(do=do)
        if do in (test, run, shell):
            word.add_argument("--on", metavar="NAME", help="a machine that `up` started, instead of one of its own")
        if do in (up, sync, down):
            word.add_argument("name")
        if do is up:
            word.add_argument("--lan", type=int, metavar="PORT", help="joins eth1 of all machines that name this port")
    return parser


def build(_options: argparse.Namespace, _rest: list[str]) -> int:
    """Builds what is missing, down to the saved state of a host that is up."""
    snapshot.saved()
    return 0


def clean(_options: argparse.Namespace, _rest: list[str]) -> int:
    """Ends all machines and removes all that was built."""
    for folder in (BUILD / "machines").glob("*/machine.json"):
        Machine(folder.parent).end()
    shutil.rmtree(BUILD, ignore_errors=True)
    return 0


def up(options: argparse.Namespace, _rest: list[str]) -> int:
    """Starts a machine that stays, with this checkout in it."""
    folder = BUILD / "machines" / options.name
    if (folder / "machine.json").exists():
        Machine(folder).end()
    machine = snapshot.up(name=options.name, lan=options.lan, deadline_s=STAYS_S)
    machine.shell.put_checkout()
    say(f"ssh -F {machine.shell.config} dom0")
    return 0


def down(options: argparse.Namespace, _rest: list[str]) -> int:
    """Ends a machine that `up` started."""
    _named(options.name).end()
    return 0


def sync(options: argparse.Namespace, _rest: list[str]) -> int:
    """Puts this checkout into a machine again."""
    _named(options.name).shell.put_checkout()
    return 0


def shell(options: argparse.Namespace, _rest: list[str]) -> int:
    """A shell in dom0."""
    with _machines(options.on) as [machine]:
        say("a shell in dom0; exit ends it")
        # The stack that `BACKEND=xen python deploy/local/run.py &` starts there is found by xenops-cli.
        inside = f"cd {CHECKOUT}; PATH={VENV}/bin:$PATH XENOPS_WHERE={CHECKOUT}/var/where.json exec bash -l"
        return subprocess.run(machine.shell.command(inside, "-t"), check=False).returncode


def run(options: argparse.Namespace, rest: list[str]) -> int:
    """Runs a command in dom0, in this checkout, with the virtual environment's programs at hand."""
    with _machines(options.on) as [machine]:
        return suite.stream(machine, rest[0] if len(rest) == 1 else shlex.join(rest))


def test(options: argparse.Namespace, rest: list[str]) -> int:
    """The acceptance suite, or what pytest's words after `test` choose of it."""
    shutil.rmtree(BUILD / "results", ignore_errors=True)
    if options.on or rest:
        words = suite.chosen(rest)
        with _machines(options.on) as [machine]:
            outcomes = {shlex.join(words): suite.run(machine, words)}
    else:
        number = int(os.environ.get("XEN_RIG_MACHINES") or min(2, os.cpu_count() or 1))
        with _machines(None, number=number) as machines:
            outcomes = suite.run_all(machines)
        outcomes |= _again({path: outcome for path, outcome in outcomes.items() if not outcome.passed})
    suite.tell(outcomes)
    passed = all(outcome.passed for outcome in outcomes.values())
    say(f"{'passed' if passed else 'FAILED'} after {elapsed():.0f} s")
    return int(not passed)


def _again(failed: Mapping[str, suite.Outcome]) -> dict[str, suite.Outcome]:
    """With XEN_RIG_AGAIN=N: up to N files that failed, each once more in a host of its own, and the first failure told.

    Emulated hosts share the cores of whoever runs this, and one chance event in a hundred tests would hide what the others
    show. What fails here in earnest fails again; what does not is told as UNSTABLE, and is a bug to be found.
    """
    if not 0 < len(failed) <= int(os.environ.get("XEN_RIG_AGAIN") or 0):
        return {}
    outcomes = {}
    for path in failed:
        with _machines(None) as [machine]:
            outcomes[path] = suite.run_file(machine, path, label=" again|")
    suite.tell({path: outcome for path, outcome in failed.items() if outcomes[path].passed}, "UNSTABLE")
    return outcomes


@contextmanager
def _machines(name: str | None, *, number: int = 1) -> Iterator[list[Machine]]:
    """The named machine, or some that live as long as this command; with this checkout in each."""
    if name:
        named = _named(name)
        named.shell.put_checkout()
        yield [named]
        return
    machines: list[Machine] = []
    try:
        for _ in range(number):
            machines.append(snapshot.up())
            machines[-1].shell.put_checkout()
        yield machines
    except Exception as problem:
        say(f"{type(problem).__name__}: {problem}")
        for machine in machines:
            failures.keep(machine)
        raise
    finally:
        for machine in machines:
            machine.end()


def _named(name: str) -> Machine:
    folder = BUILD / "machines" / name
    if not (folder / "machine.json").exists() or not Machine(folder).alive:
        raise SystemExit(f"no machine runs under the name {name}: `up {name}` starts one")
    return Machine(folder)


if __name__ == "__main__":
    sys.exit(main())
