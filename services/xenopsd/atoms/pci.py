# SPDX-License-Identifier: Apache-2.0
"""Steps on a passed-through PCI device."""

from dataclasses import dataclass

from xenops.events import Kind
from xenops.types.pci import Pci
from xenops.types.vm import Vm
from xenopsd.atoms.context import Context
from xenopsd.engine.plan import Atom


@dataclass(frozen=True)
class _OnPci(Atom):
    vm: Vm
    pci: Pci

    @property
    def about(self) -> str:
        return self.pci.id.dev


@dataclass(frozen=True)
class Plug(_OnPci):
    """Give the device to the guest."""

    async def do(self, cx: Context) -> None:
        await cx.backend.pci.plug(self.vm, self.pci)
        cx.changed(Kind.PCI, str(self.pci.id))

    async def undo(self, cx: Context) -> None:
        await cx.backend.pci.unplug(self.vm, self.pci)
        cx.changed(Kind.PCI, str(self.pci.id))


@dataclass(frozen=True)
class Unplug(_OnPci):
    """Take it away."""

    async def do(self, cx: Context) -> None:
        try:
            await cx.backend.pci.unplug(self.vm, self.pci)
        finally:
            cx.changed(Kind.PCI, str(self.pci.id))


@dataclass(frozen=True)
class Dequarantine(_OnPci):
    """Give a device back to the host that was set aside; it is set aside again by itself."""

    async def do(self, cx: Context) -> None:
        await cx.backend.pci.dequarantine(self.pci.address)
