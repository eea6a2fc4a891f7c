# SPDX-License-Identifier: Apache-2.0
"""The container of a suspended machine: a signature, then records of a kind, a length and a body.

    XenSavedDomv2-\\n | Xenops: metadata | Libxc: length 0, then libxc's own stream | [Qemu: its state] | End

Kind and length are 64 bits each, the least significant byte first. Libxc's stream is not measured: it says itself where
it ends. What follows it is only found by who has read it.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum

SIGNATURE = b"XenSavedDomv2-\n"
_HEADER = struct.Struct("<qq")
HEADER_SIZE = _HEADER.size
METADATA_LIMIT = 1 << 24
QEMU_LIMIT = 1 << 28  # a guest with much video memory has tens of MiB


class Kind(IntEnum):
    """What a record holds."""

    XENOPS = 0x000F
    LIBXC = 0x00F0
    QEMU = 0x0F01
    END = 0xFFFF


_LIMITS = {Kind.XENOPS: METADATA_LIMIT, Kind.LIBXC: 0, Kind.QEMU: QEMU_LIMIT, Kind.END: 0}


class Malformed(ValueError):
    """This is no image, or a damaged one; the text says what is wrong."""


@dataclass(frozen=True)
class Header:
    """The beginning of a record."""

    kind: Kind
    length: int


def header(kind: Kind, length: int = 0) -> bytes:
    """The beginning of a record whose body has that length."""
    return _HEADER.pack(kind, length)


def check_signature(untrusted_data: bytes) -> None:
    """Raises `Malformed` when an image does not begin like that."""
    if untrusted_data != SIGNATURE:
        raise Malformed("this is no image of a suspended machine: its signature is missing")


def parse_header(untrusted_data: bytes) -> Header:
    """The beginning of a record. Raises `Malformed`."""
    if len(untrusted_data) < HEADER_SIZE:
        raise Malformed("the image is cut short between two records")
    number, length = _HEADER.unpack_from(untrusted_data)
    try:
        kind = Kind(number)
    except ValueError as error:
        raise Malformed(f"the image holds a record of the unknown kind {number:#x}") from error
    if not 0 <= length <= _LIMITS[kind]:
        raise Malformed(f"the image's {kind.name} record claims a length of {length} bytes")
    return Header(kind, length)
