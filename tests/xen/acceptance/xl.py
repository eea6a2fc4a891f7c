# SPDX-License-Identifier: Apache-2.0
"""Xen's own tool, as the tests use it: beside our domains, and for comparison with them."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


def run(*words: str, timeout_s: float = 120) -> str:
    """`xl` with these words; its output, or CalledProcessError with what it said."""
    return _output(["xl", *words], timeout_s)


def complaints(*words: str, timeout_s: float = 120) -> str:
    """What `xl` with these words says on standard error, though it succeeds."""
    return _done(["xl", *words], timeout_s).stderr


def store(*words: str) -> str:
    """`xenstore-<word> …`, its output without the last line's end."""
    return _output([f"xenstore-{words[0]}", *words[1:]], 60).rstrip("\n")


def config(folder: Path, name: str, **settings: object) -> Path:
    """A configuration file of these settings; numbers, strings and lists of strings, as xl.cfg writes them."""
    lines = [f"{key} = {_value(value)}" for key, value in {"name": name, **settings}.items()]
    path = folder / f"{name}.cfg"
    path.write_text("\n".join(lines) + "\n")
    return path


@contextmanager
def domain(path: Path, *options: str) -> Iterator[int]:
    """A domain that xl makes of this configuration and then leaves alone, so that it stays when it has shut down.

    Destroyed at the end; yields its number.
    """
    run("create", "-e", *options, str(path))
    name = path.stem
    try:
        yield int(run("domid", name))
    finally:
        if name in names():
            run("destroy", name)


def names() -> list[str]:
    return [line.split()[0] for line in run("list").splitlines()[1:]]


def _output(command: list[str], timeout_s: float) -> str:
    return _done(command, timeout_s).stdout


def _done(command: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    if done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stdout}{done.stderr}")
    return done


def _value(value: object) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(_value(item) for item in value) + "]"
    return str(value) if isinstance(value, int) else f"'{value}'"
