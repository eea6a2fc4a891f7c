# SPDX-License-Identifier: Apache-2.0
"""What every acceptance test is held to: it leaves the host as it found it, and a failure leaves its traces behind."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

from tests.xen.acceptance import world
from tests.xen.acceptance.desk import Office, Story

TRACES = {
    "xenstore.txt": ["xenstore-ls", "-f"],
    "xl-list.txt": ["xl", "list"],
    "xl-dmesg.txt": ["xl", "dmesg"],
    "dmesg.txt": ["dmesg"],
}


@pytest.fixture(autouse=True)
def host_as_before() -> Iterator[None]:
    """Compares domains, xenstore, loop devices, interfaces and processes before and after."""
    before = world.look()
    yield
    if changes := world.settle(before):
        pytest.fail("the test left the host changed:\n" + "\n".join(changes), pytrace=False)


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Office]:
    """The whole stack, for all stories of a file."""
    opened = Office(tmp_path_factory.mktemp("office"))
    yield opened
    opened.close()


@pytest.fixture
def tell(office: Office, tmp_path: Path) -> Callable[[Story], None]:
    """Tell a story at the desk of a stack that runs; afterwards no machine of it is left."""
    return lambda story: office.tell(story, tmp_path)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """At the moment of failure, before anything is taken down: what the host and our own services say."""
    report = yield
    results = os.environ.get("XEN_RIG_RESULTS")
    if report.failed and results:
        _keep(item, Path(results) / f"{re.sub(r'[^A-Za-z0-9_.-]+', '-', item.name)}-{report.when}")
    return report


def _keep(item: pytest.Item, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in TRACES.items():
        try:
            done = subprocess.run(command, capture_output=True, timeout=30)
            (folder / name).write_bytes(done.stdout + done.stderr)
        except (OSError, subprocess.SubprocessError) as problem:
            (folder / name).write_text(f"could not be had: {problem}\n")
    tmp_path = getattr(item, "funcargs", {}).get("tmp_path")
    for log in Path(tmp_path).rglob("*.log") if tmp_path else ():
        shutil.copy(log, folder / log.name)
