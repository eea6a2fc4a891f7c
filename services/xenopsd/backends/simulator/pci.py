# SPDX-License-Identifier: Apache-2.0
"""Simulated passed-through PCI devices: the host has one of every address."""

from typing import ClassVar

from xenops.errors import AlreadyExists, Unimplemented
from xenops.types.pci import Pci, PciState
from xenops.types.pci_address import PciAddress
from xenops.types.vm import Pvh, Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.simulator.injection import Noun, gated
from xenopsd.backends.simulator.world.domain import PassedPci


class SimulatedPci(Noun):
    """PCI functions; one that a guest has had is set aside until somebody gives it back."""

    noun: ClassVar[str] = "pci"

    @gated
    async def plug(self, vm: Vm, pci: Pci) -> None:
        domain = self._world.domain(vm.id)
        if isinstance(vm.ty, Pvh):
            raise Unimplemented("PCI devices of PVH guests")
        if pci.id.dev in domain.pcis or any(it.pci.position == pci.position for it in domain.pcis.values()):
            raise AlreadyExists("pci", str(pci.position))
        if self._in_use(pci.address):
            raise AlreadyExists("pci", str(pci.address))
        domain.pcis[pci.id.dev] = PassedPci(pci)
        self._world.commit(domain)
        self._set_aside(pci.address, aside=True)

    @gated
    async def unplug(self, vm: Vm, pci: Pci) -> None:
        domain = self._world.find(vm.id)
        if domain is not None and domain.pcis.pop(pci.id.dev, None) is not None:
            self._world.commit(domain)

    @gated
    async def dequarantine(self, address: PciAddress) -> None:
        if not self._in_use(address):
            self._set_aside(address, aside=False)

    @gated
    async def state(self, vm: Vm, pci: Pci) -> PciState:
        domain = self._world.find(vm.id)
        return PciState(plugged=domain is not None and pci.id.dev in domain.pcis)

    @gated
    async def get_action(self, vm: Vm, pci: Pci) -> DeviceAction | None:
        domain = self._world.find(vm.id)
        passed = None if domain is None else domain.pcis.get(pci.id.dev)
        return DeviceAction.UNPLUG if passed is not None and passed.offline else None

    def _in_use(self, address: PciAddress) -> bool:
        domains = self._world.domains.values()
        return any(it.pci.address == address for domain in domains for it in domain.pcis.values())

    def _set_aside(self, address: PciAddress, *, aside: bool) -> None:
        quarantined = self._world.facts.quarantined
        if (str(address) in quarantined) is aside:
            return
        if aside:
            quarantined.append(str(address))
        else:
            quarantined.remove(str(address))
        self._world.commit_facts()
