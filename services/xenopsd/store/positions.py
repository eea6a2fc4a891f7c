# SPDX-License-Identifier: Apache-2.0
"""Where a drive goes whose position nobody chose: to the first free one of its machine, and for good.

Pure. The choice is part of the drive's record, so that a guest finds its disk under the same name after every reboot,
restart and move. An HVM machine's first four disks are IDE disks, which its firmware can boot from; all others are Xen's.
"""

from collections.abc import Iterable

import msgspec

from xenops.errors import BadRequest
from xenops.types.device_number import Bus, DeviceNumber
from xenops.types.record import UNSET
from xenops.types.vbd import Vbd, VbdType
from xenops.types.vm import Hvm, Vm

_IDE_DISKS = 4


def positioned(vbds: Iterable[Vbd], vm: Vm, before: Iterable[Vbd] = ()) -> list[Vbd]:
    """All the drives of a machine, each with a position; `before` is how they were registered until now."""
    known, hvm = {it.id.dev: it for it in before}, isinstance(vm.ty, Hvm)
    vbds = list(vbds)
    taken = {place for vbd in vbds if (place := _place(vbd, hvm=hvm)) is not None}
    for n, vbd in enumerate(vbds):
        as_before = _as_before(vbd, known.get(vbd.id.dev))
        place = _place(as_before, hvm=hvm)
        if vbd.position is UNSET and place is not None and place not in taken:  # unless another asks for it now
            taken.add(place)
            vbds[n] = as_before
    for n, vbd in enumerate(vbds):
        if vbd.position is UNSET:
            number = _first_free(vbd, taken, hvm=hvm)
            taken.add(_of_guest(number))
            vbds[n] = msgspec.structs.replace(vbd, position=number.name)
    return vbds


def _as_before(vbd: Vbd, before: Vbd | None) -> Vbd:
    """A drive that is registered again without a position keeps the one it has."""
    if before is None or vbd.position is not UNSET or (vbd.ty is VbdType.FLOPPY) != (before.ty is VbdType.FLOPPY):
        return vbd
    return msgspec.structs.replace(vbd, position=before.position)


def _place(vbd: Vbd, *, hvm: bool) -> tuple[bool, int] | None:
    if vbd.position is UNSET:
        return None
    try:
        return _of_guest(DeviceNumber.parse(vbd.position, hvm=hvm))
    except ValueError:  # it is refused when it is plugged, and takes no place
        return None


def _of_guest(number: DeviceNumber) -> tuple[bool, int]:
    """What a guest tells drives apart by: hda, sda and xvda are one disk to those who look at letters alone."""
    return number.bus is Bus.FLOPPY, number.disk


def _first_free(vbd: Vbd, taken: set[tuple[bool, int]], *, hvm: bool) -> DeviceNumber:
    floppy = vbd.ty is VbdType.FLOPPY
    disk = next(n for n in range(len(taken) + 1) if (floppy, n) not in taken)
    bus = Bus.FLOPPY if floppy else Bus.IDE if hvm and disk < _IDE_DISKS else Bus.XEN
    try:
        return DeviceNumber(bus, disk)
    except ValueError as error:
        raise BadRequest("position", f"no place is left for {vbd.id}: {error}") from None
