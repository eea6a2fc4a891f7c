# SPDX-License-Identifier: Apache-2.0
"""The file that a suspended machine's memory goes to: a signature, the length and checksum of the rest, the rest.

It is written from the beginning and cut off at its end: what a longer image left behind is never read again.
"""

import os
import stat
import struct
import zlib
from pathlib import Path

import msgspec

from xenops.errors import IoError
from xenopsd.backends.simulator.world.domain import ENCODER, Domain

SIGNATURE = b"XenopsSimulatedMemory-1\n"
_HEADER = struct.Struct(">QI")
_LIMIT = 1 << 24


def check_writable(path: Path) -> None:
    """Make sure that an image could be written, before any guest is asked for it. Raises `IoError`."""
    try:
        os.close(_open(path, os.O_WRONLY | os.O_CREAT))
    except OSError as error:
        raise IoError(str(path), str(error.strerror or error)) from error


def write(path: Path, domain: Domain) -> int:
    """Write the domain's image and see it on the disk; its size. Raises `IoError`."""
    body = ENCODER.encode(domain) + bytes(4096)  # the placeholder of memory itself
    image = SIGNATURE + _HEADER.pack(len(body), zlib.crc32(body)) + body
    try:
        with open(_open(path, os.O_WRONLY | os.O_CREAT), "wb") as file:
            if stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                file.truncate(0)
            file.write(image)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise IoError(str(path), str(error.strerror or error)) from error
    return len(image)


def read(path: Path) -> Domain:
    """The domain that was saved there. Raises `IoError`."""
    try:
        with open(_open(path, os.O_RDONLY), "rb") as file:
            untrusted_image = file.read(_LIMIT)
    except OSError as error:
        raise IoError(str(path), str(error.strerror or error)) from error
    try:
        return parse(untrusted_image)
    except ValueError as error:
        raise IoError(str(path), str(error)) from error


def parse(untrusted_image: bytes) -> Domain:
    """The domain in an image; a `ValueError` says what is wrong with it."""
    start = len(SIGNATURE) + _HEADER.size
    if not untrusted_image.startswith(SIGNATURE):
        raise ValueError("this is no memory image of a simulated machine: its signature is missing")
    if len(untrusted_image) < start:
        raise ValueError("the memory image ends within its header")
    length, checksum = _HEADER.unpack(untrusted_image[len(SIGNATURE) : start])
    body = untrusted_image[start : start + length]
    if len(body) < length:
        raise ValueError(f"the memory image is cut short: {len(body)} of {length} bytes")
    if zlib.crc32(body) != checksum or length < 4096:
        raise ValueError("the memory image is damaged: its checksum is wrong")
    try:
        return msgspec.msgpack.decode(body[:-4096], type=Domain)
    except msgspec.MsgspecError as error:
        raise ValueError(f"the memory image cannot be read: {error}") from error


def _open(path: Path, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    kind = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
        os.close(descriptor)
        raise OSError("neither a file nor a block device")
    return descriptor
