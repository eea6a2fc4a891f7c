# SPDX-License-Identifier: Apache-2.0
"""The daemons that the tests of this folder share, and a place in the tree for each test."""

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.xenopsd.xen.xenstore import daemons

_places = count()


@pytest.fixture(scope="session")
def xenstored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of the daemon in C."""
    with daemons.running("xenstored", tmp_path_factory.mktemp("c") / "run") as socket:
        yield socket


@pytest.fixture(scope="session")
def oxenstored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The socket of the daemon in OCaml."""
    with daemons.running("oxenstored", tmp_path_factory.mktemp("ml") / "run") as socket:
        yield socket


@pytest.fixture(params=daemons.NAMES)
def daemon(request: pytest.FixtureRequest) -> Path:
    """The socket of either daemon: what is tested holds with both."""
    socket = request.getfixturevalue(request.param)
    assert isinstance(socket, Path)
    return socket


@pytest.fixture
def place() -> str:
    """A path that no other test uses."""
    return f"/test/{next(_places)}"
