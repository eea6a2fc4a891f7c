# SPDX-License-Identifier: Apache-2.0
"""What is read off a declaration."""

import msgspec
import pytest

from xenops.errors import Fault
from xenops.idl import Method, methods
from xenops.interfaces.console import CONSOLE
from xenops.interfaces.forkexec import FORKEXEC
from xenops.interfaces.xenops import INTERFACES, VM, General

ALL = {wire: method for interface in (*INTERFACES, CONSOLE, FORKEXEC) for wire, method in methods(interface).items()}


@pytest.mark.parametrize("method", ALL.values(), ids=ALL)
def test_every_declared_method_is_whole(method: Method) -> None:
    assert method.doc.endswith(".")
    assert all(issubclass(fault, Fault) for fault in method.raises)
    assert method.params.__struct_config__.forbid_unknown_fields
    assert method.reads or not method.waits
    assert method.wire.rpartition(".")[2] == method.attribute


def test_names_and_defaults_come_from_the_signature() -> None:
    start = methods(VM)["VM.start"]
    assert start.params.__struct_fields__ == ("id", "force", "paused")
    params = start.params(id="a")
    assert msgspec.to_builtins(params) == {"id": "a"}, "what is at its default does not travel"
    assert [m.attribute for m in methods(VM).values()][:3] == ["add", "remove", "rename"]
    assert set(methods(General)) == {"query", "get_diagnostics"}
