# SPDX-License-Identifier: Apache-2.0
"""What a drive's bytes are to a back end: a block device, a file behind a loop device, or an image that a QEMU reads.

    phy     a block device                   blkback
    file    a raw file, behind a loop device blkback
    qdisk   any other format                 QEMU
    script  whatever a hotplug script makes of `params`
    remote  whatever a driver domain makes of `params`, with its own blkback

A disk that one guest writes to is given to no other, unless the record says that it is shared (mode `w!`, as xl has it):
two writers who do not know of each other destroy a file system within minutes.
"""

import errno
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from xenops.errors import BadRequest, IoError, Unimplemented
from xenops.types.disk import Disk, Local, RemoteDisk
from xenopsd.backends.xen.devices import loop

Identity = tuple[str, int, int]  # "block", major, minor; or "file", device, inode
SHARED_MODE = "w!"
_QEMU_FORMATS = ("qcow2", "qcow", "vhd", "vpc", "vmdk", "vdi", "qed")


class Way(Enum):
    """Who reads it."""

    PHY = "phy"
    FILE = "file"
    QDISK = "qdisk"
    SCRIPT = "script"
    REMOTE = "remote"


@dataclass(frozen=True)
class Medium:
    """A disk that was looked at."""

    way: Way
    path: str
    format: str
    identity: Identity | None = None
    physical: str = ""  # %x:%x of a block device

    @property
    def params(self) -> str:
        """What xl would write of it."""
        if self.way is not Way.QDISK:
            return self.path
        return f"{'aio' if self.format == 'raw' else self.format}:{self.path}"


def look(disk: Disk, *, read_only: bool, emulated: bool, exclusive: bool, script: str, ways: Sequence[Way]) -> Medium:
    """What that disk is, and whether it can be read. `emulated`: only a QEMU shows it. Raises `IoError`, `Unimplemented`."""
    if isinstance(disk, RemoteDisk):
        if emulated:
            raise Unimplemented("a drive with media, of an HVM guest, that a driver domain serves")
        return Medium(Way.REMOTE, disk.path, "raw")
    if not isinstance(disk, Local):
        raise Unimplemented(f"attaching {disk.name} without a storage service")
    if script:
        return Medium(Way.SCRIPT, disk.path, disk.format)
    if disk.format != "raw" and disk.format not in _QEMU_FORMATS:
        raise BadRequest("vbd.backend.format", f"{disk.format!r:.20}: known are raw, {', '.join(_QEMU_FORMATS)}")
    identity, physical = _identity(disk.path, read_only=read_only, exclusive=exclusive)
    way = Way.QDISK if disk.format != "raw" or emulated else Way.PHY if physical else Way.FILE
    if way not in ways:
        raise Unimplemented(f"a disk of kind {way.value} here")
    return Medium(way, disk.path, "vpc" if disk.format == "vhd" else disk.format, identity, physical)


def physical(device: os.stat_result | int) -> str:
    """A block device as Xen writes it."""
    number = device if isinstance(device, int) else device.st_rdev
    return f"{os.major(number):x}:{os.minor(number):x}"


def identity_of(physical_device: str) -> Identity | None:
    """What lies behind a `physical-device` node: a loop device is its file."""
    major, colon, minor = physical_device.partition(":")
    try:
        number = int(major, 16), int(minor, 16)
    except ValueError:
        return None
    if not colon:
        return None
    if number[0] == loop.MAJOR:
        backing = loop.backing(f"/dev/loop{number[1]}")
        if backing is not None:
            return "file", *backing
    return "block", *number


def in_flight(physical_device: str, sysfs: Path) -> int:
    """How many requests a block device (as Xen writes it) has taken and not answered; none when there is no such device."""
    major, _, minor = physical_device.partition(":")
    counts = sysfs / "dev/block" / f"{int(major, 16)}:{int(minor, 16)}" / "inflight"
    try:
        return sum(int(count) for count in counts.read_text().split())  # reads and writes
    except FileNotFoundError:
        return 0


def identity_of_file(path: str) -> Identity | None:
    """What lies behind a path."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return identity_of(physical(found)) if stat.S_ISBLK(found.st_mode) else ("file", found.st_dev, found.st_ino)


def _identity(path: str, *, read_only: bool, exclusive: bool) -> tuple[Identity, str]:
    """What it is, and as a block device if it is one. The kernel says whether the control domain itself uses it."""
    flags = os.O_RDONLY if read_only else os.O_RDWR
    try:
        found = os.stat(path)
        if stat.S_ISBLK(found.st_mode):
            flags = os.O_RDONLY | (os.O_EXCL if exclusive else 0)  # open for reading: no udev event when it is closed
        elif not stat.S_ISREG(found.st_mode):
            raise IoError(path, "this is neither a block device nor a file")
        os.close(os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK))
    except OSError as error:
        raise IoError(path, _reason(error)) from error
    if not stat.S_ISBLK(found.st_mode):
        return ("file", found.st_dev, found.st_ino), ""
    identity = identity_of(physical(found))
    return identity or ("block", os.major(found.st_rdev), os.minor(found.st_rdev)), physical(found)


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.ENOENT:
            return "there is no such disk; check the path, it is read in the control domain"
        case errno.EBUSY:
            return "the control domain itself uses it (mounted, swap, RAID or LVM); unmount it there first"
        case errno.EROFS | errno.EACCES | errno.EPERM:
            return f"{error.strerror}; make it writable for xenopsd, or register the drive as ReadOnly"
        case _:
            return error.strerror or str(error)
