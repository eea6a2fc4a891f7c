# SPDX-License-Identifier: Apache-2.0
"""Every fault crosses the bus whole, and nothing that is no fault becomes code."""

import copy
import dataclasses
import pickle
from typing import Any, get_type_hints

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import Fault, InternalError, decode, encode

SAMPLES: dict[Any, Any] = {str: "some text", int: 7, float: 1.5, list[str]: ["a", "b"]}


def sample(cls: type[Fault]) -> Fault:
    hints = get_type_hints(cls)
    return cls(*(SAMPLES[hints[f.name]] for f in dataclasses.fields(cls)))  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", Fault.known.values(), ids=Fault.known)
def test_every_fault_crosses_the_bus(cls: type[Fault]) -> None:
    fault = sample(cls)
    travelled = decode(msgspec.msgpack.decode(msgspec.msgpack.encode(encode(fault))))
    assert type(travelled) is cls
    assert travelled == fault
    assert str(travelled) == str(fault)
    assert copy.copy(fault) == fault
    assert pickle.loads(pickle.dumps(fault)) == fault


@pytest.mark.parametrize("cls", Fault.known.values(), ids=Fault.known)
def test_every_fault_reads_as_a_sentence(cls: type[Fault]) -> None:
    fault = sample(cls)
    assert str(fault)
    assert "{" not in str(fault)
    assert cls.__doc__
    assert repr(fault).startswith(f"{cls.__name__}(")


@given(st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.sampled_from(sorted(Fault.known)),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["name", "fields", "message", "actual", "id"]) | st.text(), inner, max_size=4),
))  # fmt: skip
def test_anything_decodes_to_a_fault(untrusted: Any) -> None:
    fault = decode(untrusted)
    assert isinstance(fault, Fault)
    assert str(fault)


def test_an_unknown_fault_keeps_what_it_said() -> None:
    fault = decode({"name": "OutOfCheese", "fields": {}, "message": "there is no cheese"})
    assert isinstance(fault, InternalError)
    assert "OutOfCheese" in str(fault)
    assert "there is no cheese" in str(fault)


def test_newer_fields_of_a_fault_are_ignored() -> None:
    fault = decode({"name": "DoesNotExist", "fields": {"kind": "VM", "key": "a", "later": 1}})
    assert fault.fields() == {"kind": "VM", "key": "a"}
