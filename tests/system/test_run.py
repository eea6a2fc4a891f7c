# SPDX-License-Identifier: Apache-2.0
"""`make run`: a banner, a stack that clients find by themselves, a clean end on Ctrl-C, and machines that survive it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
CLI = Path(sys.executable).parent / "xenops-cli"


@contextmanager
def make_run(var: Path) -> Iterator[list[str]]:
    """The stack as `make run` runs it, ended by Ctrl-C; what it said up to its banner's last line."""
    command = [sys.executable, str(ROOT / "deploy/local/run.py")]
    environ = {**os.environ, "VAR": str(var)}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as stack:
        assert stack.stdout is not None
        said = []
        for line in stack.stdout:
            said.append(line)
            if "Ctrl-C stops" in line:
                break
        try:
            yield said
        finally:
            stack.send_signal(signal.SIGINT)
            rest = stack.stdout.read()
        assert stack.wait(30) == 0
    assert "nothing of the stack runs any more" in rest
    assert not (var / "where.json").exists()


def cli(var: Path, *arguments: str) -> str:
    environ = {**os.environ, "XENOPS_WHERE": str(var / "where.json")}
    return subprocess.run(
        [str(CLI), *arguments], env=environ, check=True, capture_output=True, text=True, cwd=ROOT, timeout=30
    ).stdout


def test_machines_survive_to_the_next_run(tmp_path: Path) -> None:
    with make_run(tmp_path) as said:
        found = json.loads(cli(tmp_path, "where", "--json"))
        banner = "".join(said)
        assert found["queue"] in banner
        password = found["amqp"].split(":")[2].split("@")[0]
        assert password not in banner
        vm = cli(tmp_path, "add", "examples/myfirstvm.cfg").strip()
        cli(tmp_path, "start", vm)
    with make_run(tmp_path):
        (machine,) = json.loads(cli(tmp_path, "list", "--json"))
        assert (machine["vm"]["id"], machine["state"]["power_state"]) == (vm, "Running")
        cli(tmp_path, "shutdown", vm)
