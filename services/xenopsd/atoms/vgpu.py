# SPDX-License-Identifier: Apache-2.0
"""Steps on virtual graphics processors; they come and go with their machine."""

from dataclasses import dataclass

from xenops.events import Kind
from xenops.types.vgpu import Vgpu
from xenops.types.vm import Vm
from xenopsd.atoms.context import Context
from xenopsd.engine.plan import Atom


@dataclass(frozen=True)
class SetActive(Atom):
    """Note that the virtual GPU is meant to be there, or not."""

    vm: Vm
    vgpu: Vgpu
    active: bool

    async def do(self, cx: Context) -> None:
        cx.machines.set_active(Kind.VGPU, self.vm.id, self.vgpu.id.dev, self.active)
        cx.changed(Kind.VGPU, str(self.vgpu.id))

    async def undo(self, cx: Context) -> None:
        if self.active:  # taking the mark off needs no putting back: the device is gone
            cx.machines.set_active(Kind.VGPU, self.vm.id, self.vgpu.id.dev, False)

    @property
    def about(self) -> str:
        return self.vgpu.id.dev


@dataclass(frozen=True)
class Start(Atom):
    """Start the processes that emulate them; they end with the domain."""

    vm: Vm
    vgpus: tuple[Vgpu, ...]
    restoring: bool = False

    async def do(self, cx: Context) -> None:
        await cx.backend.vgpu.start(self.vm, self.vgpus, restoring=self.restoring)
