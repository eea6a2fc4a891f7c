# SPDX-License-Identifier: Apache-2.0
"""What the switch reads at its start: half of its memory is code, so what it does not need it must not read."""

import subprocess
import sys
import tomllib
from pathlib import Path

import message_cli
import xenops_cli
from xenops.version import VERSION

HEAVY = {"prometheus_client", "importlib.metadata", "http.server", "email", "zipfile", "kombu", "zstandard"}


def test_without_metrics_it_reads_nothing_that_it_does_not_need() -> None:
    read = subprocess.run(
        [sys.executable, "-c", "import sys, message_switch.main; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        timeout=50,
    )
    assert set(read.stdout.split()) & HEAVY == set()


def test_there_is_one_version() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert {project["version"], xenops_cli.VERSION, message_cli.VERSION} == {VERSION}
