# SPDX-License-Identifier: Apache-2.0
"""Linux as the rig needs it: the ELF out of a bzImage, modules in their order, and initramfs archives.

An ELF kernel starts ten times sooner than a bzImage under emulation: nothing is unpacked inside. Archives are written
here, byte by byte, so that no root and no cpio program is needed. This room touches no file but those it is given.
"""

import lzma
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath

_XZ = b"\xfd7zXZ\x00"
_DIRECTORY, _FILE, _LINK = 0o040755, 0o100755, 0o120777


def elf(bzimage: bytes) -> bytes:
    """The vmlinux inside of a bzImage whose payload is xz (as all of Debian 12's are)."""
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    payload = bzimage[start : start + length]
    if bzimage[0x202:0x206] and not payload.startswith(_XZ):
        raise ValueError("the kernel's payload is not xz")
    return lzma.LZMADecompressor().decompress(payload)


def load_order(modules_dep: str, names: Iterable[str]) -> list[str]:
    """Paths of the named modules and of all that they need, each after what it needs."""
    needs: dict[str, list[str]] = {}
    by_name: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        by_name[PurePosixPath(path).name.split(".")[0].replace("_", "-")] = path
    order: list[str] = []

    def add(path: str) -> None:
        for needed in reversed(needs[path]):
            add(needed)
        if path not in order:
            order.append(path)

    for name in names:
        add(by_name[name.replace("_", "-")])
    return order


def archive(entries: Mapping[str, bytes | Path | None]) -> bytes:
    """An initramfs (newc): None is a directory, a Path is a symbolic link to it, bytes are an executable file."""
    out = bytearray()
    for number, (name, content) in enumerate(entries.items(), start=1):
        mode = _DIRECTORY if content is None else _LINK if isinstance(content, Path) else _FILE
        data = b"" if content is None else str(content).encode() if isinstance(content, Path) else content
        _append(out, number, name, mode, data)
    _append(out, 0, "TRAILER!!!", 0, b"")
    return bytes(out) + bytes(-len(out) % 512)


def _append(out: bytearray, inode: int, name: str, mode: int, data: bytes) -> None:
    title = name.encode() + b"\0"
    fields = (inode, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(title), 0)
    out += b"070701" + b"".join(b"%08X" % field for field in fields) + title
    out += bytes(-len(out) % 4)
    out += data
    out += bytes(-len(out) % 4)
