# SPDX-License-Identifier: Apache-2.0
"""Simulated virtual GPUs: they are there, and no process emulates them."""

from collections.abc import Sequence
from typing import ClassVar

from xenops.types.vgpu import Vgpu, VgpuState
from xenops.types.vm import Vm
from xenopsd.backends.simulator.injection import Noun, gated


class SimulatedVgpu(Noun):
    """Virtual GPUs; they go with the domain."""

    noun: ClassVar[str] = "vgpu"

    @gated
    async def start(self, vm: Vm, vgpus: Sequence[Vgpu], *, restoring: bool) -> None:
        domain = self._world.domain(vm.id)
        domain.vgpus |= {vgpu.id.dev: vgpu for vgpu in vgpus}
        self._world.commit(domain)

    @gated
    async def state(self, vm: Vm, vgpu: Vgpu) -> VgpuState:
        domain = self._world.find(vm.id)
        return VgpuState(plugged=domain is not None and vgpu.id.dev in domain.vgpus)
