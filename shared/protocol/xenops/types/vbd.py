# SPDX-License-Identifier: Apache-2.0
"""A virtual block device: disk, CD drive or floppy drive of one VM."""

from enum import Enum
from typing import Annotated

from msgspec import Meta, field

from xenops.types.disk import Disk
from xenops.types.ids import DeviceId
from xenops.types.record import UNSET, Maybe, Record


class Mode(Enum):
    """Whether the guest may write."""

    READ_ONLY = "ReadOnly"
    READ_WRITE = "ReadWrite"


class VbdType(Enum):
    """What the drive looks like; only CD and floppy drives have ejectable media."""

    CDROM = "CDROM"
    DISK = "Disk"
    FLOPPY = "Floppy"


class IoniceClass(Enum):
    """The scheduling classes of ioprio_set(2)."""

    REAL_TIME = "RealTime"
    BEST_EFFORT = "BestEffort"
    IDLE = "Idle"


class Qos(Record, frozen=True, kw_only=True):
    """I/O priority of the disk's backend: ionice class and level (0 highest .. 7 lowest)."""

    ionice: IoniceClass
    level: Annotated[int, Meta(ge=0, le=7)] = 4


class Vbd(Record, frozen=True, kw_only=True):
    """A drive as registered; no `backend` is an empty drive.

    `position` is a device number such as xvda; absent, it is the first free one, chosen when the drive is registered, and kept.
    """

    id: DeviceId
    position: Maybe[str] = UNSET
    mode: Mode = Mode.READ_WRITE
    backend: Maybe[Disk] = UNSET
    ty: VbdType = VbdType.DISK
    unpluggable: bool = True
    extra_backend_keys: dict[str, str] = field(default_factory=dict)
    extra_private_keys: dict[str, str] = field(default_factory=dict)
    qos: Maybe[Qos] = UNSET
    persistent: bool = True
    can_attach_early: bool = False


class VbdState(Record, frozen=True, kw_only=True):
    """Whether the drive is there: `active` it is meant to be, `plugged` the guest has it."""

    active: bool = False
    plugged: bool = False
    qos_target: Maybe[Qos] = UNSET
    backend_present: Maybe[Disk] = UNSET


class VbdStat(Record, frozen=True, kw_only=True):
    """A drive as registered and as it is."""

    vbd: Vbd
    state: VbdState
