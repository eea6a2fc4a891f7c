# SPDX-License-Identifier: Apache-2.0
"""Kernels, unpacked once: a bzImage's ELF image is kept in a bounded folder, found again by content.

libxc would unpack the kernel again for every guest, which is most of the time that building one takes. A file that was
seen before is recognised by its inode and times without being read; a copy (such as a boot loader makes) by its digest.
What cannot be unpacked here (LZO, LZ4) is left to libxc. Nothing of the cache is trusted to be complete: entries appear
by renaming only.
"""

import bz2
import fcntl
import hashlib
import logging
import lzma
import mmap
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from xenops.errors import IoError

log = logging.getLogger(__name__)

ELF = b"\x7fELF"
GZIP, XZ, BZIP2, LZMA, ZSTD, LZO, LZ4 = (
    b"\x1f\x8b",
    b"\xfd7zXZ\0",
    b"BZh",
    b"\x5d\0\0",
    b"\x28\xb5\x2f\xfd",
    b"\x89LZO",
    b"\x02\x21\x4c\x18",
)
KEPT_KERNELS = 8
SIZE_LIMIT = 1 << 30  # as libxc's own, against images made to eat the host's memory
_BOOT_FLAG, _MAGIC = (0x1FE, b"\x55\xaa"), (0x202, b"HdrS")
_PAYLOAD_VERSION = 0x0208

Unzstd = Callable[[bytes, int], bytes]  # packed, and how much there will be: the ELF image


class NotAKernel(ValueError):
    """Neither an ELF image nor a bzImage, or a damaged one; the text says what was found."""


class Kernels:
    """The kernels of one folder, and those that this process has mapped."""

    def __init__(self, folder: Path, unzstd: Unzstd) -> None:
        self._folder = folder
        self._unzstd = unzstd
        self._mapped: dict[tuple[str, tuple[int, ...]], mmap.mmap] = {}

    def elf(self, kernel: Path) -> Path:
        """Where the kernel's ELF image is. Raises `IoError` when there is no kernel at that path."""
        try:
            with kernel.open("rb") as file:
                untrusted_start = file.read(0x250)
                if untrusted_start.startswith(ELF):
                    return kernel
                if not untrusted_start.startswith(GZIP):
                    payload_place(untrusted_start)  # raises when it is no kernel at all
                self._folder.mkdir(0o700, parents=True, exist_ok=True)
                return self._cached(kernel, os.fstat(file.fileno()))
        except NotAKernel as error:
            raise IoError(str(kernel), str(error)) from error
        except OSError as error:
            raise IoError(str(kernel), error.strerror or str(error)) from error

    def mapped(self, kernel: Path) -> mmap.mmap:
        """The kernel's ELF image in memory; it stays mapped for the next guest, until the file is another."""
        image = self.elf(kernel)
        try:
            with image.open("rb") as file:
                # What is kept here has its content's name, and its times change with each use.
                identity = (str(image), _identity(os.fstat(file.fileno())) if image == kernel else ())
                if identity not in self._mapped:
                    self._mapped.clear()  # the last one is the likely one; more would hold memory for nothing
                    flags = mmap.MAP_PRIVATE | mmap.MAP_POPULATE
                    self._mapped[identity] = mmap.mmap(file.fileno(), 0, flags=flags, prot=mmap.PROT_READ)
                return self._mapped[identity]
        except (OSError, ValueError) as error:
            raise IoError(str(image), str(error)) from error

    def _cached(self, kernel: Path, status: os.stat_result) -> Path:
        seen = self._folder / f"{hashlib.blake2b(repr(_identity(status)).encode(), digest_size=16).hexdigest()}.seen"
        entry = self._resolve(seen)
        if entry is None:
            with self._locked():
                entry = self._resolve(seen) or self._unpack(kernel, seen)
        os.utime(entry)  # the one used longest ago goes first
        return entry

    def _resolve(self, seen: Path) -> Path | None:
        try:
            entry = seen.resolve(strict=True)
        except OSError:
            return None
        return entry

    def _unpack(self, kernel: Path, seen: Path) -> Path:
        untrusted_image = kernel.read_bytes()
        entry = self._folder / f"{hashlib.blake2b(untrusted_image, digest_size=20).hexdigest()}.elf"
        if not entry.exists():
            image = unpack(untrusted_image, self._unzstd)
            if image is None:
                return kernel
            unfinished = entry.with_suffix(f".{os.getpid()}.new")
            try:
                unfinished.write_bytes(image)
                unfinished.replace(entry)
            except OSError as error:
                unfinished.unlink(missing_ok=True)
                log.warning("%s cannot be cached: %s", kernel, error)
                return kernel
            self._make_room()
        seen.unlink(missing_ok=True)
        seen.symlink_to(entry.name)
        return entry

    def _make_room(self) -> None:
        by_age = sorted(self._folder.glob("*.elf"), key=lambda entry: entry.stat().st_mtime_ns, reverse=True)
        for old in by_age[KEPT_KERNELS:]:
            old.unlink(missing_ok=True)
        for left in (*self._folder.glob("*.seen"), *self._folder.glob("*.new")):
            if not left.exists() or left.suffix == ".new":
                left.unlink(missing_ok=True)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One process at a time: of twenty that start the same guest, one unpacks and the others wait."""
        with (self._folder / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _identity(status: os.stat_result) -> tuple[int, ...]:
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def payload_place(untrusted_image: bytes) -> tuple[int, int]:
    """Offset and length of a bzImage's packed kernel. Raises `NotAKernel`."""
    for offset, expected in (_BOOT_FLAG, _MAGIC):
        if untrusted_image[offset : offset + len(expected)] != expected:
            raise NotAKernel("this is no kernel: neither an ELF image nor a Linux bzImage")
    version, setup_sectors = int.from_bytes(untrusted_image[0x206:0x208], "little"), untrusted_image[0x1F1] or 4
    if version < _PAYLOAD_VERSION:
        raise NotAKernel(f"this bzImage speaks boot protocol {version >> 8}.{version & 255:02}; 2.08 is needed")
    place, length = (int.from_bytes(untrusted_image[at : at + 4], "little") for at in (0x248, 0x24C))
    return (setup_sectors + 1) * 512 + place, length


def unpack(untrusted_image: bytes, unzstd: Unzstd) -> bytes | None:
    """The ELF image in a bzImage or a gzip file; none when its packing is not known here. Raises `NotAKernel`."""
    if untrusted_image.startswith(GZIP):
        untrusted_packed = untrusted_image
    else:
        at, length = payload_place(untrusted_image)
        untrusted_packed = untrusted_image[at : at + length]
        if not length:
            raise NotAKernel(
                "this bzImage has no kernel packed in it that Xen could boot: it is for a PC (an HVM guest) alone"
            )
        if len(untrusted_packed) < length:
            raise NotAKernel("this bzImage is cut short")
    try:
        image = _decompress(untrusted_packed, unzstd)
    except (zlib.error, lzma.LZMAError, OSError, EOFError, MemoryError, ValueError) as error:
        raise NotAKernel(f"this kernel is damaged: {error}") from error
    if image is not None and not image.startswith(ELF):
        raise NotAKernel("what is packed in this kernel is no ELF image")
    return image


def _decompress(untrusted_packed: bytes, unzstd: Unzstd) -> bytes | None:
    if untrusted_packed.startswith(ELF):
        return untrusted_packed
    if untrusted_packed.startswith(GZIP):
        return _whole(zlib.decompressobj(zlib.MAX_WBITS | 16), untrusted_packed)
    if untrusted_packed.startswith(XZ):
        return _whole(lzma.LZMADecompressor(lzma.FORMAT_XZ), untrusted_packed)
    if untrusted_packed.startswith(LZMA):
        return _whole(lzma.LZMADecompressor(lzma.FORMAT_ALONE), untrusted_packed)
    if untrusted_packed.startswith(BZIP2):
        return _whole(bz2.BZ2Decompressor(), untrusted_packed)
    if untrusted_packed.startswith(ZSTD):
        size = int.from_bytes(untrusted_packed[-4:], "little")  # the kernel's build puts it there
        if size > SIZE_LIMIT:
            raise ValueError(f"it would be {size} bytes")
        return unzstd(untrusted_packed[:-4], size)
    if untrusted_packed.startswith((LZO, LZ4)):
        return None
    raise ValueError(f"its packing is not known ({untrusted_packed[:4].hex()})")


class _Decompressor(Protocol):
    @property
    def eof(self) -> bool: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def _whole(decompressor: _Decompressor, untrusted_packed: bytes) -> bytes:
    image = decompressor.decompress(untrusted_packed, SIZE_LIMIT + 1)
    if len(image) > SIZE_LIMIT:
        raise ValueError(f"it is larger than {SIZE_LIMIT >> 20} MiB")
    if not decompressor.eof:
        raise ValueError("it ends too early")
    return image
