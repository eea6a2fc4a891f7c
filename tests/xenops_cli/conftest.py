# SPDX-License-Identifier: Apache-2.0
"""The command line in this process, on a stack that answers what the test says."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import pytest

from xenops_cli.run import run

HERE = Path(__file__).parent


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("xenops_cli_fake", HERE / "fake.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


FAKE = _load()


class Ran(NamedTuple):
    """How a run ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def fake() -> ModuleType:
    """What the stack is made of."""
    return FAKE


@pytest.fixture
def world() -> Any:
    """The stack of this test."""
    return FAKE.World()


@pytest.fixture
def cli(world: Any, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Ran]:
    """Run a command line against `world`; every other keyword is an answer, as in `VM_list=[…]`."""
    monkeypatch.setenv("XENOPS_URL", "amqp://guest:secret@127.0.0.1:5672/")
    monkeypatch.setenv("XENOPS_QUEUE", "xenops.h.simulator")
    monkeypatch.delenv("XENOPS_WHERE", raising=False)

    def call(*argv: str, **answers: Any) -> Ran:
        world.answers.update({name.replace("_", ".", 1): value for name, value in answers.items()})
        capfd.readouterr()
        code = run([str(word) for word in argv], world.connect)
        return Ran(int(code), *capfd.readouterr())

    return call
