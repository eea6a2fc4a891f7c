# SPDX-License-Identifier: Apache-2.0
"""The hypervisors of the backend contract, and how a test tells its story on each.

A backend that needs more than a folder adds a row to `LABS`, with its own way to open a backend, to make machines
that can really boot, and to look at what is left over.
"""

import asyncio
import importlib
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.contracts.backend.lab import Lab, Machine
from xenops.service.hypervisor import default_backend
from xenopsd.backends.port import Backend

LABS: dict[str, type[Lab]] = {"simulator": Lab}
if default_backend() == "xen" and os.geteuid() == 0:
    LABS["xen"] = importlib.import_module("tests.contracts.backend.real_xen").XenLab


@pytest.fixture(params=sorted(LABS))
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """Each hypervisor in turn."""
    return LABS[request.param](tmp_path)


@pytest.fixture(params=["hvm", "pv", "pvh"])
def kind(request: pytest.FixtureRequest) -> str:
    """Each kind of guest in turn."""
    return str(request.param)


Story = Callable[[Backend, Machine], Awaitable[None]]


@pytest.fixture
def tell(lab: Lab) -> Callable[..., None]:
    """Run a story about one machine; afterwards nothing of the machine may be left."""

    def told(
        kind: str, story: Story, *, started: bool = True, answering: bool = False, drivers: bool = False, **wishes: Any
    ) -> None:
        if kind not in lab.kinds:
            pytest.skip(f"there are no {kind} guests here")
        if answering and kind not in lab.answering_kinds:
            pytest.skip(f"no {kind} guest is had to answer here")

        async def run() -> None:
            async with lab.open() as backend:
                before = (await backend.host.stat()).memory_free
                machine = Machine(backend, lab.a_vm(kind, answering=answering, drivers=drivers, **wishes))
                try:
                    if started:
                        await machine.start()
                    if answering:
                        await lab.awake(machine)
                    await story(backend, machine)
                finally:  # a real host outlives a failure
                    await machine.stop()
                    await backend.vm.forget(machine.vm)
                assert lab.same_memory((await backend.host.stat()).memory_free, before), "memory was left over"
                assert (await machine.state()).domids == []

        asyncio.run(run())

    return told
