# SPDX-License-Identifier: Apache-2.0
"""Steps on a network interface."""

from dataclasses import dataclass

import msgspec

from xenops.events import Kind
from xenops.types.network import Network
from xenops.types.record import UNSET
from xenops.types.vif import Ipv4Configuration, Ipv6Configuration, LockingMode, PvsProxy, Vif
from xenops.types.vm import Vm
from xenopsd.atoms.context import Context
from xenopsd.engine.plan import Atom


@dataclass(frozen=True)
class _OnVif(Atom):
    vm: Vm
    vif: Vif

    @property
    def about(self) -> str:
        return self.vif.id.dev


@dataclass(frozen=True)
class SetActive(_OnVif):
    """Note that the interface is meant to be plugged, or not."""

    active: bool

    async def do(self, cx: Context) -> None:
        cx.machines.set_active(Kind.VIF, self.vm.id, self.vif.id.dev, self.active)
        cx.changed(Kind.VIF, str(self.vif.id))

    async def undo(self, cx: Context) -> None:
        if self.active:  # taking the mark off needs no putting back: the device is gone
            cx.machines.set_active(Kind.VIF, self.vm.id, self.vif.id.dev, False)


@dataclass(frozen=True)
class Plug(_OnVif):
    """Show the interface to the guest and bring the link up."""

    async def do(self, cx: Context) -> None:
        await cx.backend.vif.plug(self.vm, self.vif)
        cx.changed(Kind.VIF, str(self.vif.id))

    async def undo(self, cx: Context) -> None:
        await cx.backend.vif.unplug(self.vm, self.vif, force=True)
        cx.changed(Kind.VIF, str(self.vif.id))


@dataclass(frozen=True)
class Unplug(_OnVif):
    """Take it away."""

    force: bool

    async def do(self, cx: Context) -> None:
        try:
            await cx.backend.vif.unplug(self.vm, self.vif, force=self.force)
        finally:
            cx.changed(Kind.VIF, str(self.vif.id))


@dataclass(frozen=True)
class _Setting(_OnVif):
    """A change of the record that a plugged interface follows at once.

    The record is written first, since scripts read it back; if the backend refuses, it is put back.
    """

    async def do(self, cx: Context) -> None:
        await cx.machines.note(Kind.VIF, self.wanted())
        try:
            if (await cx.backend.vif.state(self.vm, self.vif)).plugged:
                await self.apply(cx)
        except BaseException:
            await cx.machines.note(Kind.VIF, self.vif)
            raise
        await cx.machines.commit()
        cx.changed(Kind.VIF, str(self.vif.id))

    async def undo(self, cx: Context) -> None:
        await cx.machines.note(Kind.VIF, self.vif)

    def wanted(self) -> Vif:
        """The record as it will be."""
        raise NotImplementedError

    async def apply(self, cx: Context) -> None:
        """Make the plugged interface follow."""
        raise NotImplementedError


@dataclass(frozen=True)
class Move(_Setting):
    """Connect it to another network."""

    network: Network

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, backend=self.network)

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.move(self.vm, self.vif, self.network)


@dataclass(frozen=True)
class SetCarrier(_Setting):
    """Plug the virtual cable in or out."""

    carrier: bool

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, carrier=self.carrier)

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.set_carrier(self.vm, self.vif, self.carrier)


@dataclass(frozen=True)
class SetLockingMode(_Setting):
    """Which traffic may pass."""

    mode: LockingMode

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, locking_mode=self.mode)

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.set_locking_mode(self.vm, self.vif, self.mode)


@dataclass(frozen=True)
class SetIpv4(_Setting):
    """Hint to the guest how to set up IPv4."""

    configuration: Ipv4Configuration

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, ipv4_configuration=self.configuration)

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.set_ipv4_configuration(self.vm, self.vif, self.configuration)


@dataclass(frozen=True)
class SetIpv6(_Setting):
    """Hint to the guest how to set up IPv6."""

    configuration: Ipv6Configuration

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, ipv6_configuration=self.configuration)

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.set_ipv6_configuration(self.vm, self.vif, self.configuration)


@dataclass(frozen=True)
class SetPvsProxy(_Setting):
    """Put a boot-disk cache in front of it, or take it away."""

    proxy: PvsProxy | None

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, pvs_proxy=UNSET if self.proxy is None else self.proxy)

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.set_pvs_proxy(self.vm, self.vif, self.proxy)


@dataclass(frozen=True)
class SetTrunks(_Setting):
    """The VLANs that reach it tagged."""

    trunks: tuple[int, ...]

    def wanted(self) -> Vif:
        return msgspec.structs.replace(self.vif, trunks=list(self.trunks))

    async def apply(self, cx: Context) -> None:
        await cx.backend.vif.set_trunks(self.vm, self.vif, list(self.trunks))
