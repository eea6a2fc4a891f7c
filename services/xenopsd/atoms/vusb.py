# SPDX-License-Identifier: Apache-2.0
"""Steps on a passed-through USB device."""

from dataclasses import dataclass

from xenops.events import Kind
from xenops.types.vm import Vm
from xenops.types.vusb import Vusb
from xenopsd.atoms.context import Context
from xenopsd.engine.plan import Atom


@dataclass(frozen=True)
class _OnVusb(Atom):
    vm: Vm
    vusb: Vusb

    @property
    def about(self) -> str:
        return self.vusb.id.dev


@dataclass(frozen=True)
class Plug(_OnVusb):
    """Give the device to the guest."""

    async def do(self, cx: Context) -> None:
        await cx.backend.vusb.plug(self.vm, self.vusb)
        cx.changed(Kind.VUSB, str(self.vusb.id))

    async def undo(self, cx: Context) -> None:
        await cx.backend.vusb.unplug(self.vm, self.vusb)
        cx.changed(Kind.VUSB, str(self.vusb.id))


@dataclass(frozen=True)
class Unplug(_OnVusb):
    """Take it away."""

    async def do(self, cx: Context) -> None:
        try:
            await cx.backend.vusb.unplug(self.vm, self.vusb)
        finally:
            cx.changed(Kind.VUSB, str(self.vusb.id))
