# SPDX-License-Identifier: Apache-2.0
"""Virtual GPUs: their emulators come from the makers of the cards, and none is known here."""

from collections.abc import Sequence

from xenops.errors import Unimplemented
from xenops.types.vgpu import Vgpu, VgpuState
from xenops.types.vm import Vm
from xenopsd.backends.xen.world import World


class XenVgpu:
    """Virtual GPUs."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self, vm: Vm, vgpus: Sequence[Vgpu], *, restoring: bool) -> None:
        if vgpus:
            raise Unimplemented("vgpu.start on Xen")

    async def state(self, vm: Vm, vgpu: Vgpu) -> VgpuState:
        return VgpuState()
