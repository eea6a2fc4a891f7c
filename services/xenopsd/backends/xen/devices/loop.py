# SPDX-License-Identifier: Apache-2.0
"""Loop devices: a file of the control domain as a block device, for a back end that knows block devices only.

Each is set up to take itself away when nobody has it open any more. While a disk is plugged its back end has it open;
before that we have. So neither a crash of ours nor a guest that is destroyed by others leaves one behind, and none is
ever cleared by its number, which may be somebody else's by then.
Numbers and structures: linux/loop.h.
"""

import asyncio
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from xenops.errors import IoError

_LOOP_CLR_FD = 0x4C01
_LOOP_CONFIGURE = 0x4C0A
_LOOP_GET_STATUS64 = 0x4C05
_LOOP_CTL_GET_FREE = 0x4C82
_READ_ONLY, _AUTOCLEAR, _DIRECT_IO = 1, 4, 16
# struct loop_info64: device, inode, rdevice, offset, sizelimit; number, encrypt_type, encrypt_key_size, flags; names, keys
_INFO64 = struct.Struct("=5Q4I64s64s32s2Q")
_CONFIG = struct.Struct(f"=2I{_INFO64.size}s64s")
_ATTEMPTS = 64  # others take free ones too
_GONE_S, _LOOK_AGAIN_S = 5.0, 0.005

MAJOR = 7


@dataclass
class Loop:
    """A loop device that we have open."""

    number: int
    file: int

    @property
    def path(self) -> str:
        """Its device node."""
        return f"/dev/loop{self.number}"

    @property
    def physical(self) -> str:
        """Its numbers, as Xen writes them."""
        return f"{MAJOR:x}:{self.number:x}"

    def close(self) -> None:
        """Let go: it stays while somebody else has it open."""
        if self.file >= 0:
            os.close(self.file)
            self.file = -1


async def attach(path: str, *, read_only: bool) -> Loop:
    """A new one over that file. Raises `IoError`."""
    working = asyncio.ensure_future(asyncio.to_thread(_attach, path, read_only=read_only))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        working.add_done_callback(_abandoned)
        raise


def _abandoned(working: "asyncio.Future[Loop]") -> None:
    if not working.cancelled() and working.exception() is None:
        working.result().close()


def _attach(path: str, *, read_only: bool) -> Loop:
    mode = os.O_RDONLY if read_only else os.O_RDWR
    try:
        backing = os.open(path, mode | os.O_CLOEXEC)
    except OSError as error:
        raise IoError(path, error.strerror or str(error)) from error
    try:
        for _ in range(_ATTEMPTS):
            loop = _configured(backing, path, mode)
            if loop is not None:
                return loop
    except OSError as error:
        raise IoError(path, f"no loop device could be set up: {error.strerror or error}") from error
    finally:
        os.close(backing)
    raise IoError(path, "no loop device could be set up: others took every free one")


def _configured(backing: int, path: str, mode: int) -> Loop | None:
    """The next free one; None when somebody else was faster."""
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    finally:
        os.close(control)
    loop = Loop(number, os.open(f"/dev/loop{number}", mode | os.O_CLOEXEC))
    flags = _AUTOCLEAR | _DIRECT_IO | (_READ_ONLY if mode == os.O_RDONLY else 0)
    name = os.fsencode(path)[:63]
    info = _INFO64.pack(0, 0, 0, 0, 0, 0, 0, 0, flags, name, b"", b"", 0, 0)
    try:
        fcntl.ioctl(loop.file, _LOOP_CONFIGURE, _CONFIG.pack(backing, 0, info, b""))
    except OSError as error:
        loop.close()
        if error.errno == errno.EBUSY:
            return None
        raise
    return loop


def backing(device: str) -> tuple[int, int] | None:
    """Which file (device and inode) a loop device is over; None when it is over none."""
    try:
        opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        raw = fcntl.ioctl(opened, _LOOP_GET_STATUS64, bytes(_INFO64.size))
    except OSError:
        return None
    finally:
        os.close(opened)
    device_number, inode, *_ = _INFO64.unpack(raw)
    return device_number, inode


def clear(device: str, file: tuple[int, int]) -> None:
    """Take away a loop device that others set up over that file; as soon as nobody else has it open. Idempotent."""
    if backing(device) != file:
        return
    opened = os.open(device, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.ioctl(opened, _LOOP_CLR_FD)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise IoError(device, f"it could not be cleared: {error.strerror or error}") from error
    finally:
        os.close(opened)


def serves(device: str, *, sysfs: Path = Path("/sys")) -> bool:
    """Whether a device is over a file, if it is a loop device."""
    name = Path(device).name
    return not name.startswith("loop") or (sysfs / "block" / name / "loop/backing_file").exists()


async def cleared(number: int, *, sysfs: Path = Path("/sys")) -> bool:
    """Wait until a loop device is over nothing: a back end lets go a moment after it says so, and no event tells."""
    file = sysfs / f"block/loop{number}/loop/backing_file"
    try:
        async with asyncio.timeout(_GONE_S):
            while file.exists():  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_AGAIN_S)
    except TimeoutError:
        return False
    return True
