# SPDX-License-Identifier: Apache-2.0
"""A simulator, and a machine that runs on it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Vif
from xenops.types.vm import Hvm, Vm
from xenopsd.backends.simulator import Options, Simulator

Opened = Callable[..., AbstractAsyncContextManager["Play"]]


class Play:
    """A simulator on stage: the backend, what it told by itself, and machines that run."""

    def __init__(self, backend: Simulator, told: list[tuple[Kind, str]]) -> None:
        self.backend, self.told = backend, told

    async def a_running_vm(self, name: str = "vm") -> Vm:
        """An HVM machine with a disk, a CD drive and an interface."""
        metadata = a_machine(name)
        vm = metadata.vm
        await self.backend.vm.create(metadata)
        await self.backend.vm.build(metadata, force=False)
        for vbd in metadata.vbds:
            await self.backend.vbd.plug(vm, vbd)
        await self.backend.vif.plug(vm, metadata.vifs[0])
        await self.backend.vm.create_device_model(metadata, restoring=False)
        await self.backend.vm.set_action(vm, None)
        await self.backend.vm.unpause(vm)
        return vm

    async def state(self, vm: Vm) -> Any:
        """What the backend says of it."""
        return (await self.backend.vm.states([vm]))[0]


def a_machine(name: str) -> Metadata:
    """The machine that `a_running_vm` starts."""
    vm = Vm(id=name, name=name, ty=Hvm(), vcpu_max=2, vcpus=2)
    disk = Vbd(id=DeviceId(vm=name, dev="hda"), position="hda", backend=Local(path="/dev/loop0"))
    drive = Vbd(
        id=DeviceId(vm=name, dev="hdb"),
        position="hdb",
        ty=VbdType.CDROM,
        mode=Mode.READ_ONLY,
        backend=Local(path="/cd.iso"),
    )
    return Metadata(vm=vm, vbds=[disk, drive], vifs=[Vif(id=DeviceId(vm=name, dev="0"), mac="00:16:3e:00:00:01")])


@pytest.fixture
def play(tmp_path: Path) -> Opened:
    """Open the simulator that is kept in this test's folder, with those options."""

    @asynccontextmanager
    async def opened(**options: Any) -> AsyncIterator[Play]:
        told: list[tuple[Kind, str]] = []
        backend = Simulator(tmp_path / "state", Options(**options))
        await backend.start(lambda kind, id: told.append((kind, id)))
        try:
            yield Play(backend, told)
        finally:
            await backend.stop()

    return opened
