# SPDX-License-Identifier: Apache-2.0
"""The real hypervisor: domains of the Xen that this control domain runs on.

Loaded by name, `create` is its door. It touches no domain that was not made here for a registered machine.
"""

import asyncio
import logging
from pathlib import Path

from xenops.errors import Unimplemented
from xenops.events import Kind
from xenopsd.backends.port import (
    Backend,
    Changed,
    HostBackend,
    PciBackend,
    Surroundings,
    VbdBackend,
    VgpuBackend,
    VifBackend,
    VmBackend,
    VusbBackend,
)
from xenopsd.backends.xen.builder.spares import Builders
from xenopsd.backends.xen.devicemodel.qemu import DeviceModels
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.bootloader import tidy
from xenopsd.backends.xen.domain.domains import Domains
from xenopsd.backends.xen.domain.shelf import Clocks, Shelf
from xenopsd.backends.xen.domain.trees import Trees
from xenopsd.backends.xen.domctl import Domctl
from xenopsd.backends.xen.host import XenHost
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.pci import XenPci
from xenopsd.backends.xen.vbd import XenVbd
from xenopsd.backends.xen.vgpu import XenVgpu
from xenopsd.backends.xen.vif import XenVif
from xenopsd.backends.xen.vm import XenVm
from xenopsd.backends.xen.vusb import XenVusb
from xenopsd.backends.xen.world import Ledger, World
from xenopsd.backends.xen.xenstore.changes import Mkdir
from xenopsd.backends.xen.xenstore.client import XenStore

__all__ = ["Options", "Xen", "XenOptions", "create"]

log = logging.getLogger(__name__)

Options = XenOptions


class Xen:
    """The backend; its nouns are there once it has been started."""

    name: str = "xen"
    host: HostBackend
    vm: VmBackend
    vbd: VbdBackend
    vif: VifBackend
    pci: PciBackend
    vusb: VusbBackend
    vgpu: VgpuBackend

    def __init__(self, surroundings: Surroundings, options: XenOptions) -> None:
        self._surroundings, self._options = surroundings, options
        self._world: World | None = None
        self._watching: list[asyncio.Task[None]] = []

    async def start(self, changed: Changed) -> None:
        """Open Xen and xenstore, start the builders, and find the domains of an earlier life."""
        self._world = world = await self._open(lambda kind, id: self._noted(kind, id, changed))
        self.host = XenHost(world)
        self.vm = XenVm(world, Shelf(world.state_dir / "suspended"))
        vbd, vif, pci = XenVbd(world), XenVif(world), XenPci(world)
        self.vbd, self.vif, self.pci = vbd, vif, pci
        self.vusb, self.vgpu = XenVusb(world), XenVgpu(world)
        world.devices = [vbd, vif, pci]
        world.device_models.connect_tap, world.device_models.on_eject = vif.connect_emulated, vbd.ejected
        await world.xs.commit([Mkdir("/xenopsd", layout.OURS)])
        await world.builders.start()
        await world.domains.adopt()
        for _, domid in world.domains.items():
            world.trees.follow(domid)
        await world.device_models.adopt()
        tidy(world.state_dir)
        self._watching = [
            asyncio.create_task(world.domains.follow(changed), name="released domains"),
            asyncio.create_task(vbd.follow(), name="back ends"),
        ]

    async def stop(self) -> None:
        world, self._world = self._world, None
        if world is None:
            return
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*self._watching, return_exceptions=True)
        await world.trees.stop()
        await world.device_models.close()
        await world.builders.stop()
        await world.xs.close()
        await world.xc.close()

    def _noted(self, kind: Kind, id: str, changed: Changed) -> None:
        """A device's change is one of its domain's tree too: whether its drivers are at work is seen there."""
        world = self._world
        domid = None if world is None or kind is Kind.VM else world.domains.domid(id.partition(".")[0])
        if world is not None and domid is not None:
            world.trees.touch(domid)
        changed(kind, id)

    async def debug(self, command: str, arguments: list[str]) -> None:
        raise Unimplemented(command)

    async def _open(self, changed: Changed) -> World:
        state_dir: Path = self._surroundings.state_dir
        xc = Domctl()
        version = await xc.version()
        xs = await XenStore.connect(str(self._options.xenstore))
        domains = Domains(xs, xc)

        def tree_changed(domid: int) -> None:
            vm = domains.machine(domid)
            if vm is not None:
                changed(Kind.VM, vm)

        world = World(
            xs=xs,
            xc=xc,
            host=await xc.physinfo(),
            builders=Builders(self._options.helpers, state_dir / "builders", state_dir / "kernels"),
            domains=domains,
            trees=Trees(xs, tree_changed),
            ledger=Ledger(xc),
            run_program=self._surroundings.run_program,
            programs=self._surroundings.programs,
            options=self._options,
            state_dir=state_dir,
            clocks=Clocks(state_dir / "clocks"),
            changed=changed,
        )
        world.device_models = DeviceModels(world)
        log.info("Xen %s%s", version.release, version.extra)
        return world


def create(surroundings: Surroundings, options: XenOptions) -> Backend:
    """This host's Xen."""
    return Xen(surroundings, options)
