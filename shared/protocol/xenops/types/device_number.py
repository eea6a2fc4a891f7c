# SPDX-License-Identifier: Apache-2.0
"""The number by which a guest's block front end knows a drive, and the names people give it.

The integer key is an ABI: a guest's xen-blkfront takes it apart again, so it must never change.

    bus                 key                                    disks       partitions
    Xen, disk < 16      202 << 8 | disk << 4 | partition       0..15       0..15
    Xen, disk >= 16     1 << 28 | disk << 8 | partition        16..2^20-1  0..255
    Scsi                8 << 8 | disk << 4 | partition         0..15       0..15
    Floppy              203 << 8 | disk << 4 | partition       0..2        0
    Ide                 major[disk / 2] << 8 | disk % 2 << 6 | partition     0..19   0..63
"""

import re
from dataclasses import dataclass
from enum import Enum


class Bus(Enum):
    """What the drive seems to hang on; the value is the prefix of its names."""

    XEN = "xvd"
    SCSI = "sd"
    FLOPPY = "fd"
    IDE = "hd"


_MAX_DISK = {Bus.XEN: (1 << 20) - 1, Bus.SCSI: 15, Bus.FLOPPY: 2, Bus.IDE: 19}
_MAX_PARTITION = {Bus.XEN: 15, Bus.SCSI: 15, Bus.FLOPPY: 0, Bus.IDE: 63}
_EXTENDED = 1 << 28
_IDE_MAJORS = (3, 22, 33, 34, 56, 57, 88, 89, 90, 91)
_MAJORS = {202: Bus.XEN, 8: Bus.SCSI, 203: Bus.FLOPPY}
# ASCII only: `int` would read other scripts' digits too. The lengths bound the work on hostile input.
_NAME = re.compile(r"(xvd|sd|fd|hd)([a-z]{1,6})([0-9]{0,3})")
_NUMBERS = re.compile(r"d([0-9]{1,7})(?:p([0-9]{1,3}))?")
_PLAIN = re.compile(r"[0-9]{1,7}")


@dataclass(frozen=True)
class DeviceNumber:
    """One drive, or one partition of it (0 is the whole drive)."""

    bus: Bus
    disk: int
    partition: int = 0

    def __post_init__(self) -> None:
        partitions = 255 if self.bus is Bus.XEN and self.disk >= 16 else _MAX_PARTITION[self.bus]
        if not 0 <= self.disk <= _MAX_DISK[self.bus]:
            raise ValueError(f"disk {self.disk} is not among the {self.bus.value} disks 0 to {_MAX_DISK[self.bus]}")
        if not 0 <= self.partition <= partitions:
            raise ValueError(f"partition {self.partition} is not among 0 to {partitions}")

    @staticmethod
    def parse(untrusted_text: str, *, hvm: bool = False) -> "DeviceNumber":
        """Read `xvda`, `sdb3`, `fda`, `hdc2`, `d536p37`, or a plain disk number; a `ValueError` says what is wrong.

        Of the plain numbers, an HVM guest sees the first four as IDE disks and every other as Xen disks.
        """
        if match := _NAME.fullmatch(untrusted_text):
            return DeviceNumber(Bus(match[1]), _ordinal(match[2]), int(match[3] or "0"))
        if match := _NUMBERS.fullmatch(untrusted_text):
            return DeviceNumber(Bus.XEN, int(match[1]), int(match[2] or "0"))
        if _PLAIN.fullmatch(untrusted_text):
            disk = int(untrusted_text)
            return DeviceNumber(Bus.IDE if hvm and disk < 4 else Bus.XEN, disk)
        raise ValueError(f"{untrusted_text!r:.60} is not a drive's name; write for example xvda, hdc, sdb1 or d16p2")

    @staticmethod
    def from_key(key: int) -> "DeviceNumber":
        """The drive with that key; a `ValueError` if there is none."""
        if key & _EXTENDED and key >> 29 == 0:
            return DeviceNumber(Bus.XEN, key >> 8 & 0xFFFFF, key & 0xFF)
        major, minor = key >> 8, key & 0xFF
        if major in _MAJORS:
            return DeviceNumber(_MAJORS[major], minor >> 4, minor & 0xF)
        if major in _IDE_MAJORS and minor < 128:
            return DeviceNumber(Bus.IDE, _IDE_MAJORS.index(major) * 2 + (minor >> 6), minor & 0x3F)
        raise ValueError(f"{key} is not the key of a drive")

    def to_key(self) -> int:
        """The integer under which the drive stands in xenstore."""
        if self.bus is Bus.IDE:
            return _IDE_MAJORS[self.disk // 2] << 8 | self.disk % 2 << 6 | self.partition
        if self.bus is Bus.XEN and self.disk >= 16:
            return _EXTENDED | self.disk << 8 | self.partition
        major = next(number for number, bus in _MAJORS.items() if bus is self.bus)
        return major << 8 | self.disk << 4 | self.partition

    @property
    def name(self) -> str:
        """The canonical spelling, bus and all: `parse` gives the same drive back."""
        return f"{self.bus.value}{_letters(self.disk)}{self.partition or ''}"

    def __str__(self) -> str:
        """The name that a Linux guest gives the drive: its front end shows IDE drives as xvd, too."""
        return self.name.replace("hd", "xvd", 1) if self.bus is Bus.IDE else self.name


def _letters(ordinal: int) -> str:
    """Bijective base 26: 0 is a, 25 is z, 26 is aa."""
    text = ""
    ordinal += 1
    while ordinal:
        ordinal, digit = divmod(ordinal - 1, 26)
        text = chr(ord("a") + digit) + text
    return text


def _ordinal(letters: str) -> int:
    ordinal = 0
    for letter in letters:
        ordinal = ordinal * 26 + ord(letter) - ord("a") + 1
    return ordinal - 1
