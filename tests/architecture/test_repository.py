# SPDX-License-Identifier: Apache-2.0
"""What the whole repository holds: no secrets, no machine's own paths, and tests that mirror the tree."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {"services": ROOT / "services", "clients": ROOT / "clients", "shared": ROOT / "shared/protocol/xenops"}
# Rooms of tests that look at more than one package.
BESIDE = {
    "architecture",
    "bench",
    "contracts",
    "deploy",
    "docker",
    "docs",
    "examples",
    "golden",
    "cluster",
    "scale",
    "system",
    "xen",
}

FOREIGN = {
    "a path of one machine": re.compile(r"(?<![\w.}<*])/(?:work|home/\w+)/\w"),
    "a private key": re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----"),
    "an access key": re.compile(r"\bAKIA[0-9A-Z]{16}\b|\bgh[pousr]_[A-Za-z0-9]{36}\b"),
}


@pytest.fixture(scope="module")
def texts() -> dict[str, str]:
    """Every file that git has or would take, as far as it is text."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
    )
    if listed.returncode != 0:
        pytest.skip("needs a git checkout")
    found: dict[str, str] = {}
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            found[name] = (ROOT / name).read_bytes().decode("utf-8", errors="ignore")
    assert "README.md" in found
    return found


@pytest.mark.parametrize("what", FOREIGN)
def test_the_repository_speaks_of_the_project_alone(what: str, texts: dict[str, str]) -> None:
    found = {name: hit[0] for name, text in texts.items() if (hit := FOREIGN[what].search(text))}
    assert found == {}


def test_the_lock_holds_versions_and_no_place_where_they_are_found() -> None:
    pinned = re.compile(r"(?m)^\S+==\S+( ;.*)?( \\\n    --hash=sha256:[0-9a-f]{64})+\n")
    rest = pinned.sub("", (ROOT / "requirements.lock").read_text(encoding="utf-8"))
    assert not rest.strip(), rest[:500]


def test_tests_mirror_the_tree() -> None:
    known = {*BESIDE, *(path.name for path in (ROOT / "shared").iterdir())}
    for folder in PACKAGES.values():
        known |= {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}
    folders = {path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and not path.name.startswith("__")}
    assert folders - known == set()


@pytest.mark.parametrize("group", ["services", "clients"])
def test_every_package_has_tests(group: str) -> None:
    packages = {path.parent.name for path in PACKAGES[group].glob("*/__init__.py")}
    assert packages
    untested = {name for name in packages if not list((ROOT / "tests" / name).rglob("test_*.py"))}
    assert untested == set()
