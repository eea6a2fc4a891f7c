# SPDX-License-Identifier: Apache-2.0
"""Steps on a drive."""

from dataclasses import dataclass

import msgspec

from xenops.errors import MediaNotEjectable, MediaNotPresent, MediaPresent
from xenops.events import Kind
from xenops.types.disk import Disk
from xenops.types.record import UNSET
from xenops.types.vbd import Qos, Vbd, VbdType
from xenops.types.vm import Vm
from xenopsd.atoms.context import Context
from xenopsd.engine.plan import Atom


@dataclass(frozen=True)
class _OnVbd(Atom):
    vm: Vm
    vbd: Vbd

    @property
    def about(self) -> str:
        return self.vbd.id.dev


@dataclass(frozen=True)
class SetActive(_OnVbd):
    """Note that the drive is meant to be plugged, or not."""

    active: bool

    async def do(self, cx: Context) -> None:
        cx.machines.set_active(Kind.VBD, self.vm.id, self.vbd.id.dev, self.active)
        cx.changed(Kind.VBD, str(self.vbd.id))

    async def undo(self, cx: Context) -> None:
        if self.active:  # taking the mark off needs no putting back: the device is gone
            cx.machines.set_active(Kind.VBD, self.vm.id, self.vbd.id.dev, False)


@dataclass(frozen=True)
class Plug(_OnVbd):
    """Attach, activate and show the drive."""

    async def do(self, cx: Context) -> None:
        await cx.backend.vbd.plug(self.vm, self.vbd)
        cx.changed(Kind.VBD, str(self.vbd.id))

    async def undo(self, cx: Context) -> None:
        await cx.backend.vbd.unplug(self.vm, self.vbd, force=True)
        cx.changed(Kind.VBD, str(self.vbd.id))


@dataclass(frozen=True)
class Unplug(_OnVbd):
    """Take it away."""

    force: bool

    async def do(self, cx: Context) -> None:
        try:
            await cx.backend.vbd.unplug(self.vm, self.vbd, force=self.force)
        finally:
            cx.changed(Kind.VBD, str(self.vbd.id))


@dataclass(frozen=True)
class Insert(_OnVbd):
    """Put a medium into the drive."""

    disk: Disk

    async def do(self, cx: Context) -> None:
        if self.vbd.ty is VbdType.DISK:
            raise MediaNotEjectable(str(self.vbd.id))
        if (await cx.backend.vbd.state(self.vm, self.vbd)).backend_present is not UNSET:
            raise MediaPresent(str(self.vbd.id))
        await cx.backend.vbd.insert(self.vm, self.vbd, self.disk)
        # The medium is in the drive after a reboot too.
        await cx.machines.note(Kind.VBD, msgspec.structs.replace(self.vbd, backend=self.disk))
        cx.changed(Kind.VBD, str(self.vbd.id))


@dataclass(frozen=True)
class Eject(_OnVbd):
    """Take the medium out."""

    async def do(self, cx: Context) -> None:
        if self.vbd.ty is VbdType.DISK:
            raise MediaNotEjectable(str(self.vbd.id))
        if (await cx.backend.vbd.state(self.vm, self.vbd)).backend_present is UNSET:
            raise MediaNotPresent(str(self.vbd.id))
        await cx.backend.vbd.eject(self.vm, self.vbd)
        await cx.machines.note(Kind.VBD, msgspec.structs.replace(self.vbd, backend=UNSET))
        cx.changed(Kind.VBD, str(self.vbd.id))


@dataclass(frozen=True)
class EpochBegin(_OnVbd):
    """The machine begins a new life: a disk that is not persistent is reset."""

    async def do(self, cx: Context) -> None:
        await cx.backend.vbd.epoch_begin(self.vm, self.vbd)

    async def undo(self, cx: Context) -> None:
        await cx.backend.vbd.epoch_end(self.vm, self.vbd)


@dataclass(frozen=True)
class EpochEnd(_OnVbd):
    """That life is over."""

    async def do(self, cx: Context) -> None:
        await cx.backend.vbd.epoch_end(self.vm, self.vbd)


@dataclass(frozen=True)
class SetQos(_OnVbd):
    """Set the I/O priority of the drive's backend."""

    qos: Qos | None

    async def do(self, cx: Context) -> None:
        await cx.backend.vbd.set_qos(self.vm, self.vbd, self.qos)
        cx.changed(Kind.VBD, str(self.vbd.id))
