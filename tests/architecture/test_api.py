# SPDX-License-Identifier: Apache-2.0
"""Every declared method has an implementation of its own: an implementation inherits the declaration, and must not pass
its empty body off as an answer.
"""

import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from xenops.derive.catalogue import SERVICES
from xenops.idl import Interface, methods
from xenops.interfaces.xenops import General

ROOT = Path(__file__).parents[2]
for path in sorted([*ROOT.glob("services/*/api.py"), *ROOT.glob("services/*/api/*.py")]):
    importlib.import_module(
        ".".join(path.relative_to(ROOT / "services").with_suffix("").parts).removesuffix(".__init__")
    )

INTERFACES = sorted({each for service in SERVICES for each in service.interfaces}, key=lambda each: each.__name__)


def _unanswered(interface: type[Interface], implementation: type) -> Iterator[str]:
    for method in methods(interface).values():
        if hasattr(getattr(implementation, method.attribute), "__rpc__"):
            yield f"{implementation.__module__}.{implementation.__name__}.{method.attribute}"


@pytest.mark.parametrize("interface", INTERFACES, ids=lambda each: each.__name__)
def test_whoever_implements_an_interface_answers_all_of_it(interface: type[Interface]) -> None:
    missing = [name for each in interface.__subclasses__() for name in _unanswered(interface, each)]
    assert missing == []


def test_the_implementations_are_found() -> None:
    implemented = {each.__name__ for each in INTERFACES if each.__subclasses__()}
    assert implemented >= {each.__name__ for each in SERVICES[0].interfaces if each is not General}
