# SPDX-License-Identifier: Apache-2.0
"""Simulated network interfaces."""

from typing import Any, ClassVar

import msgspec

from xenops.errors import AlreadyExists, BadRequest, DeviceDetachRejected, DeviceNotConnected, Unimplemented
from xenops.types.network import Bridge, Network, Remote
from xenops.types.record import UNSET
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif, VifState
from xenops.types.vm import Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.simulator.injection import Noun, gated
from xenopsd.backends.simulator.world.domain import Nic


class SimulatedVif(Noun):
    """Interfaces; a setting replaces a part of the plugged record."""

    noun: ClassVar[str] = "vif"

    @gated
    async def plug(self, vm: Vm, vif: Vif) -> None:
        domain = self._world.domain(vm.id)
        if not vif.mac:
            raise BadRequest("vif.mac", "an interface is registered with an address, or gets one then")
        if isinstance(vif.backend, Remote):
            self._world.domain(vif.backend.vm)  # the driver domain has to run
        taken = {nic.vif.position for nic in domain.vifs.values()}
        if vif.position in taken or vif.id.dev in domain.vifs:
            raise AlreadyExists("vif", str(vif.position))
        domain.vifs[vif.id.dev] = Nic(vif)
        self._world.commit(domain)

    @gated
    async def unplug(self, vm: Vm, vif: Vif, *, force: bool) -> None:
        domain = self._world.find(vm.id)
        if domain is None or vif.id.dev not in domain.vifs:
            return
        if not force and not domain.behaviour.releases and domain.shutdown is None:
            raise DeviceDetachRejected("VIF", str(vif.id), "the interface is in use")
        del domain.vifs[vif.id.dev]
        self._world.commit(domain)

    @gated
    async def move(self, vm: Vm, vif: Vif, network: Network) -> None:
        if not isinstance(network, Bridge) or not isinstance(self._nic(vm, vif).vif.backend, Bridge):
            raise Unimplemented("vif.move")
        self._change(vm, vif, backend=network)

    @gated
    async def set_carrier(self, vm: Vm, vif: Vif, carrier: bool) -> None:
        self._change(vm, vif, carrier=carrier)

    @gated
    async def set_locking_mode(self, vm: Vm, vif: Vif, mode: LockingMode) -> None:
        self._change(vm, vif, locking_mode=mode)

    @gated
    async def set_ipv4_configuration(self, vm: Vm, vif: Vif, configuration: Ipv4Configuration) -> None:
        self._change(vm, vif, ipv4_configuration=configuration)

    @gated
    async def set_ipv6_configuration(self, vm: Vm, vif: Vif, configuration: Ipv6Configuration) -> None:
        self._change(vm, vif, ipv6_configuration=configuration)

    @gated
    async def set_pvs_proxy(self, vm: Vm, vif: Vif, proxy: PvsProxy | None) -> None:
        self._change(vm, vif, pvs_proxy=UNSET if proxy is None else proxy)

    @gated
    async def set_trunks(self, vm: Vm, vif: Vif, trunks: list[int]) -> None:
        self._change(vm, vif, trunks=trunks)

    @gated
    async def state(self, vm: Vm, vif: Vif) -> VifState:
        domain = self._world.find(vm.id)
        nic = None if domain is None else domain.vifs.get(vif.id.dev)
        if domain is None or nic is None:
            return VifState()
        return VifState(
            plugged=True,
            media_present=nic.vif.carrier,
            device=f"vif{domain.domid}.{nic.vif.position}",
            pvs_rules_active=nic.vif.pvs_proxy is not UNSET,
        )

    @gated
    async def get_action(self, vm: Vm, vif: Vif) -> DeviceAction | None:
        domain = self._world.find(vm.id)
        nic = None if domain is None else domain.vifs.get(vif.id.dev)
        return DeviceAction.UNPLUG if nic is not None and nic.offline else None

    def _nic(self, vm: Vm, vif: Vif) -> Nic:
        nic = self._world.domain(vm.id).vifs.get(vif.id.dev)
        if nic is None:
            raise DeviceNotConnected("vif", str(vif.id))
        return nic

    def _change(self, vm: Vm, vif: Vif, **settings: Any) -> None:
        nic = self._nic(vm, vif)
        nic.vif = msgspec.structs.replace(nic.vif, **settings)
        self._world.commit(self._world.domain(vm.id))
