# SPDX-License-Identifier: Apache-2.0
"""Every operation is known to the journal and answers a declared method: a new one cannot be half there."""

import importlib
import pkgutil
from collections.abc import Iterator
from typing import get_args

import pytest

from xenops.derive.catalogue import all_methods
from xenops.errors import BadPowerState
from xenopsd import operations
from xenopsd.operations import catalog
from xenopsd.operations.operation import Operation

for module in pkgutil.iter_modules(operations.__path__, operations.__name__ + "."):
    importlib.import_module(module.name)


def _concrete(parent: type[Operation]) -> Iterator[type[Operation]]:
    for cls in parent.__subclasses__():
        if cls.__name__.startswith("_"):
            yield from _concrete(cls)
        else:
            yield cls
            yield from _concrete(cls)


# A test may have made up one of its own, if it was read before this.
OURS = f"{operations.__name__}."
OPERATIONS = sorted(
    (cls for cls in _concrete(Operation) if cls.__module__.startswith(OURS)), key=lambda cls: cls.__name__
)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda cls: cls.__name__)
def test_the_journal_can_read_it_back(operation: type[Operation]) -> None:
    assert operation in get_args(catalog.AnyOperation), "add it to the union in operations/catalog.py"


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda cls: cls.__name__)
def test_it_says_what_it_does_and_answers_a_declared_method(operation: type[Operation]) -> None:
    assert operation.__doc__
    tag = str(operation.__struct_config__.tag)
    wires = {method.wire for method in all_methods()}
    assert tag in wires or any(wire.endswith(f".{tag}") for wire in wires)
    assert operation.plan is not Operation.plan


@pytest.mark.parametrize("operation", [each for each in OPERATIONS if each.needs], ids=lambda cls: cls.__name__)
def test_who_needs_a_power_state_declares_that_it_may_be_another(operation: type[Operation]) -> None:
    tag = str(operation.__struct_config__.tag)
    answered = [method for method in all_methods() if method.wire == tag or method.wire.endswith(f".{tag}")]
    assert [method.wire for method in answered if BadPowerState not in method.raises] == []
