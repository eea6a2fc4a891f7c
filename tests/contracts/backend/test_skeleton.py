# SPDX-License-Identifier: Apache-2.0
"""The place where a backend starts: it has every call of the port, and says of each change that it cannot be made."""

import asyncio
import inspect
from pathlib import Path
from typing import Any

import pytest

from xenops.errors import Unimplemented
from xenops.types.process import Ended, Program
from xenops.types.vm import HALTED, Hvm, Vm
from xenopsd.backends import port
from xenopsd.backends.port import Backend, Surroundings
from xenopsd.backends.skeleton import Options, create

NOUNS = ("host", "vm", "vbd", "vif", "pci", "vusb", "vgpu")
QUERIES = {
    "stat",
    "state",
    "states",
    "power_state",
    "get_action",
    "remains",
    "get_console_data",
    "get_total_memory_mib",
    "get_internal_state",
    "hook_arguments",
}


async def no_programs(program: Program) -> Ended:
    raise AssertionError(f"{program.argv[0]} was to be run")


def skeleton() -> Backend:
    return create(Surroundings(Path("/nonexistent"), {}, no_programs), Options())


def calls() -> list[tuple[str, str]]:
    """Every call that the port declares."""
    return [
        (noun, name)
        for noun in NOUNS
        for name, member in vars(getattr(port, f"{noun.capitalize()}Backend")).items()
        if inspect.iscoroutinefunction(member)
    ]


@pytest.mark.parametrize(("noun", "name"), calls())
def test_every_call_answers_nothing_or_is_unimplemented_by_name(noun: str, name: str) -> None:
    call: Any = getattr(getattr(skeleton(), noun), name)
    signature = inspect.signature(call)
    declared = inspect.signature(getattr(getattr(port, f"{noun.capitalize()}Backend"), name))
    assert list(signature.parameters) == list(declared.parameters)[1:]
    arguments: dict[str, Any] = dict.fromkeys(signature.parameters, None)
    if "vms" in arguments:
        arguments["vms"] = [Vm(id="a", ty=Hvm())]
    if name in QUERIES:
        asyncio.run(call(**arguments))
        return
    with pytest.raises(Unimplemented) as caught:
        asyncio.run(call(**arguments))
    assert caught.value.what == f"{noun}.{name}"


def test_every_machine_is_halted() -> None:
    vms = [Vm(id=name, ty=Hvm()) for name in ("a", "b")]
    assert asyncio.run(skeleton().vm.states(vms)) == [HALTED, HALTED]


def test_no_debug_command_is_known() -> None:
    with pytest.raises(Unimplemented):
        asyncio.run(skeleton().debug("reboot", []))
