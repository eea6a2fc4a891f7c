# SPDX-License-Identifier: Apache-2.0
"""PCI functions of the host given to guests: taken from their driver by pciback, assigned in the IOMMU, shown to the guest.

    /xenopsd/pci/<address>              who has it, and which driver had it before: it is given back by `dequarantine`
    /local/domain/0/backend/pci/<n>/0   all functions of a guest in one back end, as xl lays it out

A function that a guest had stays with pciback, reset, until somebody gives it back: its firmware may be the guest's.
Without an IOMMU a function reaches all memory of the host: then only PV guests get one, and only if a setting says so.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from xenops.errors import (
    AlreadyExists,
    DoesNotExist,
    HypercallFailed,
    IoError,
    StepTimedOut,
    Unimplemented,
)
from xenops.types.pci import Pci, PciState
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET
from xenops.types.vm import Hvm, Pv, Pvh, Vm
from xenopsd.backends.port import DeviceAction
from xenopsd.backends.xen.devices import xenbus
from xenopsd.backends.xen.devices.function import Functions, Region, sbdf
from xenopsd.backends.xen.devices.rooms import Host
from xenopsd.backends.xen.devices.xenbus import State
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, Write
from xenopsd.backends.xen.xenstore.transaction import Transaction

log = logging.getLogger(__name__)

_PAGE = 12
_MEET_S = 5.0  # a guest whose driver looks for it has begun by then
_LET_GO_S = 20.0
_SYSFS = Path("/sys")
_NO_IOMMU = ("EOPNOTSUPP", "ENOSYS")
_WITHOUT_IOMMU = (
    "this host has no IOMMU in use, which would keep the device from all memory but its guest's; switch it on in the"
    " firmware, or trust a PV guest with the host (setting xen_pci_without_iommu)"
)


class XenPci:
    """PCI functions."""

    def __init__(
        self, world: Host, *, sysfs: Path = _SYSFS, let_go_s: float = _LET_GO_S, meet_s: float = _MEET_S
    ) -> None:
        self._world, self._xs, self._functions = world, world.xs, Functions(sysfs)
        self._let_go_s, self._meet_s = let_go_s, meet_s

    async def plug(self, vm: Vm, pci: Pci) -> None:
        domid = self._world.domains.require(vm.id)
        if isinstance(vm.ty, Pvh):
            raise Unimplemented("PCI devices of PVH guests: this Xen has none")
        held, note = _held(pci.address), f"{layout.private(domid)}/device/pci/{pci.position}"

        async def claim(transaction: Transaction) -> None:
            names = await transaction.read_many([f"{note}/id", f"{held}/domid", layout.domain(domid)])
            if names[2] is None:
                raise DoesNotExist("domain", vm.id)
            if names[0] is not None:
                raise AlreadyExists("pci", str(pci.position))
            if names[1] is not None:
                raise AlreadyExists("pci", str(pci.address))
            await transaction.apply(
                [
                    Mkdir(note, layout.OURS),
                    Write(f"{note}/id", pci.id.dev),
                    Write(f"{note}/address", str(pci.address)),
                    Mkdir(held, layout.OURS),
                    Write(f"{held}/domid", str(domid)),
                ]
            )

        if await self._find(domid, pci.id.dev) is not None:
            raise AlreadyExists("pci", str(pci.position))
        await self._xs.transact(claim)
        try:
            driver = await asyncio.to_thread(self._functions.driver, pci.address)
            if driver not in ("", "pciback"):
                await self._xs.commit([Write(f"{held}/driver", driver)])
            await asyncio.to_thread(self._functions.take, pci.address)
            await self._assign(vm, domid, pci.address)
            await self._show(vm, domid, pci)
        except BaseException:
            await self._release(domid, pci.position, pci.address)
            raise

    async def unplug(self, vm: Vm, pci: Pci) -> None:
        domid = self._world.domains.domid(vm.id)
        position = None if domid is None else await self._find(domid, pci.id.dev)
        if domid is not None and position is not None:
            address = await self._address(domid, position) or pci.address
            if isinstance(vm.ty, Pv):
                await self._ask_guest(domid, address)
            await self._release(domid, position, address)

    async def sweep(self, domid: int) -> None:
        """Take away all functions that a domain has or had. Idempotent."""
        for position in await self._positions(domid):
            address = await self._address(domid, position)
            if address is not None:
                await self._release(domid, position, address)
        await self._xs.commit([*_gone(domid), Remove(f"{layout.private(domid)}/device/pci")])

    async def bound(self, domid: int) -> list[str]:
        """All functions: they stay with their host, and reach the memory of the domain that they were given to."""
        return [f"PCI function {await self._address(domid, position)}" for position in await self._positions(domid)]

    async def drain(self, domid: int) -> None:
        """A guest that has one is not suspended to go elsewhere."""

    async def dequarantine(self, address: PciAddress) -> None:
        domid, driver = await self._xs.read_many([f"{_held(address)}/domid", f"{_held(address)}/driver"])
        if domid is not None:
            return  # a guest has it
        await asyncio.to_thread(self._functions.give_back, address, driver or "")
        await self._xs.commit([Remove(_held(address))])

    async def state(self, vm: Vm, pci: Pci) -> PciState:
        domid = self._world.domains.domid(vm.id)
        return PciState(plugged=domid is not None and await self._find(domid, pci.id.dev) is not None)

    async def get_action(self, vm: Vm, pci: Pci) -> DeviceAction | None:
        domid = self._world.domains.domid(vm.id)
        position = None if domid is None else await self._find(domid, pci.id.dev)
        if domid is None or position is None:
            return None
        state, online = await self._xs.read_many([f"{_back(domid)}/state", f"{_back(domid)}/online"])
        return DeviceAction.UNPLUG if online != "1" or xenbus.is_ending(xenbus.parse(state)) else None

    async def _assign(self, vm: Vm, domid: int, address: PciAddress) -> None:
        """The IOMMU lets it reach the guest's memory, and the guest reach it."""
        xc = self._world.xc
        try:
            await xc.assign_device(domid, sbdf(address))
        except HypercallFailed as failed:
            if failed.errno not in _NO_IOMMU:
                raise
            if not (isinstance(vm.ty, Pv) and self._world.options.pci_without_iommu):
                raise IoError(str(address), _WITHOUT_IOMMU) from failed
            log.warning("%s can reach all memory of this host: no IOMMU holds it", address)
        decoded, irq = await asyncio.to_thread(self._functions.resources, address)
        await self._allow(domid, decoded, allow=True)
        if irq:
            pirq = await xc.map_pirq(domid, irq)
            await xc.irq_permission(domid, pirq, allow=True)
            await self._xs.commit([Write(f"{_held(address)}/pirq", str(pirq))])

    async def _allow(self, domid: int, decoded: Iterable[Region], *, allow: bool) -> None:
        """The guest may use, or use no more, the ports and the memory that a function decodes."""
        for region in decoded:
            if region.ports:
                count = region.last - region.first + 1
                await self._world.xc.ioport_permission(domid, region.first, count, allow=allow)
            else:
                first, last = region.first >> _PAGE, region.last >> _PAGE
                await self._world.xc.iomem_permission(domid, first, last - first + 1, allow=allow)

    async def _forbid(self, domid: int, address: PciAddress) -> None:
        """The guest reaches it no more."""
        decoded, _ = await asyncio.to_thread(self._functions.resources, address)
        pirq = await self._xs.read(f"{_held(address)}/pirq")
        await self._allow(domid, decoded, allow=False)
        if pirq:
            await self._world.xc.irq_permission(domid, int(pirq), allow=False)
            await self._world.xc.unmap_pirq(domid, int(pirq))

    async def _ask_guest(self, domid: int, address: PciAddress) -> None:
        """A PV guest whose driver has the bus is told, so that its own driver of the function lets go of it."""
        back = _back(domid)

        async def ask(transaction: Transaction) -> bool:
            state, count = await transaction.read_many([f"{back}/state", f"{back}/num_devs"])
            keys = await transaction.read_many([f"{back}/key-{n}" for n in range(int(count or 0))])
            if xenbus.parse(state) is not State.CONNECTED or str(address) not in keys:
                return False
            number = keys.index(str(address))
            await transaction.write(f"{back}/state-{number}", str(int(State.CLOSING)))
            await transaction.write(f"{back}/state", str(int(State.RECONFIGURING)))
            return True

        try:
            if await self._xs.transact(ask):
                await self._xs.wait_for([f"{back}/state"], _settled, self._let_go_s)
        except StepTimedOut:
            log.warning("%s is taken from a guest that did not let go of it within %g s", address, self._let_go_s)

    async def _show(self, vm: Vm, domid: int, pci: Pci) -> None:
        """The guest's driver, or its device model, finds it."""
        back, front, xl = _back(domid), f"{layout.domain(domid)}/device/pci/0", f"{layout.libxl(domid)}/device/pci/0"

        async def write(transaction: Transaction) -> None:
            state, count = await transaction.read_many([f"{back}/state", f"{back}/num_devs"])
            number = int(count or 0)
            changes: list[Change] = []
            if state is None:
                changes += _made(domid, back, front, xl)
            for folder in (back, xl):
                changes += [
                    Write(f"{folder}/key-{number}", str(pci.address)),
                    Write(f"{folder}/dev-{number}", str(pci.address)),
                    Write(f"{folder}/opts-{number}", _options(vm, pci)),
                    Write(f"{folder}/state-{number}", str(int(State.INITIALISING))),
                    Write(f"{folder}/num_devs", str(number + 1)),
                ]
            if xenbus.parse(state) is State.CONNECTED:
                changes.append(Write(f"{back}/state", str(int(State.RECONFIGURING))))
            await transaction.apply(changes)

        await self._xs.transact(write)
        if isinstance(vm.ty, Hvm):
            await self._world.device_models.attach_pci(domid, str(pci.address))
        info = await self._world.domains.info(vm.id)
        if isinstance(vm.ty, Pv) and info is not None and not info.paused and not info.shutdown:
            with suppress(StepTimedOut):  # it has no driver, or looks later
                await self._xs.wait_for([f"{back}/state"], _settled, self._meet_s)

    async def _release(self, domid: int, position: int, address: PciAddress) -> None:
        """The guest has it no more. It is left with pciback."""
        await self._world.device_models.detach_pci(domid, str(address))
        await asyncio.to_thread(self._functions.reset, address)
        with suppress(HypercallFailed, DoesNotExist):  # never assigned, or gone with its domain
            await self._world.xc.deassign_device(domid, sbdf(address))
        with suppress(HypercallFailed, DoesNotExist, IoError):
            await self._forbid(domid, address)
        back, xl = _back(domid), f"{layout.libxl(domid)}/device/pci/0"

        async def forget(transaction: Transaction) -> None:
            count = int(await transaction.read(f"{back}/num_devs") or 0)
            keys = await transaction.read_many([f"{back}/key-{n}" for n in range(count)])
            mine = [n for n, key in enumerate(keys) if key == str(address)]
            changes: list[Change] = [
                Remove(f"{folder}/{name}-{n}")
                for folder in (back, xl)
                for n in mine
                for name in ("key", "dev", "opts", "state", "vdev", "vdevfn")
            ]
            others = [n for n, key in enumerate(keys) if key is not None and n not in mine]
            changes += [] if others else _gone(domid)
            changes += [Remove(f"{layout.private(domid)}/device/pci/{position}")]
            changes += [Remove(f"{_held(address)}/{name}") for name in ("domid", "pirq")]
            await transaction.apply(changes)

        await self._xs.transact(forget)

    async def _find(self, domid: int, dev: str) -> int | None:
        positions = await self._positions(domid)
        ids = await self._xs.read_many([f"{layout.private(domid)}/device/pci/{n}/id" for n in positions])
        return next((position for position, id in zip(positions, ids, strict=True) if id == dev), None)

    async def _positions(self, domid: int) -> list[int]:
        return [int(name) for name in await self._xs.ls(f"{layout.private(domid)}/device/pci") if name.isdigit()]

    async def _address(self, domid: int, position: int) -> PciAddress | None:
        text = await self._xs.read(f"{layout.private(domid)}/device/pci/{position}/address")
        return None if text is None else PciAddress.parse(text)


def _settled(values: Mapping[str, str | None]) -> bool:
    """The guest's driver knows what its bus has now, or there is no such bus any more."""
    return all(value is None or xenbus.parse(value) is State.CONNECTED for value in values.values())


def _back(domid: int) -> str:
    return f"/local/domain/0/backend/pci/{domid}/0"


def _held(address: PciAddress) -> str:
    return f"/xenopsd/pci/{str(address).replace(':', '-').replace('.', '-')}"


def _made(domid: int, back: str, front: str, xl: str) -> list[Change]:
    shared = {"frontend": front, "frontend-id": str(domid), "online": "1", "state": "1"}
    folders = [
        (xl, layout.OURS, {**shared, "backend": back}),
        (front, (f"n{domid}", "r0"), {"backend": back, "backend-id": "0", "state": "1"}),
        (back, ("n0", f"r{domid}"), shared),
    ]
    changes: list[Change] = []
    for folder, owner, entries in folders:
        changes += [Mkdir(folder, owner), *(Write(f"{folder}/{key}", value) for key, value in entries.items())]
    return changes


def _gone(domid: int) -> list[Change]:
    return [
        Remove(f"{layout.domain(domid)}/device/pci"),
        Remove(f"{layout.libxl(domid)}/device/pci"),
        Remove(f"/local/domain/0/backend/pci/{domid}"),
    ]


def _options(vm: Vm, pci: Pci) -> str:
    msitranslate = vm.pci_msitranslate if pci.msitranslate is UNSET else pci.msitranslate
    power = vm.pci_power_mgmt if pci.power_mgmt is UNSET else pci.power_mgmt
    return f"msitranslate={int(msitranslate)},power_mgmt={int(power)},permissive=0"
