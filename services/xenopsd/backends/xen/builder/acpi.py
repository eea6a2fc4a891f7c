# SPDX-License-Identifier: Apache-2.0
"""The ACPI tables of a PVH guest: what processors there are, and that there is no legacy hardware (ACPI 5.0).

One block that begins with the RSDP; every address in it is the guest's.
"""

import struct

_OEM = b"Xen\0\0\0", b"HVM\0\0\0\0\0"
_CREATOR = b"XNPS"
_HEADER_SIZE = 36
_RSDP_SIZE = 36
_FADT_SIZE = 268
_LAPIC_ADDRESS = 0xFEE00000
_HW_REDUCED = 1 << 20
_PWR_BUTTON, _SLP_BUTTON = 1 << 4, 1 << 5  # set: no such fixed hardware
_NO_VGA, _NO_CMOS_RTC = 1 << 2, 1 << 5
_ALIGN = 16
MAX_VCPUS = 128  # a local APIC's id is twice its vCPU's number and has 8 bits


def tables(vcpus: int, address: int) -> bytes:
    """The block for a guest with so many vCPUs, to be put at `address`, where the RSDP then is."""
    if not 1 <= vcpus <= MAX_VCPUS:
        raise ValueError(f"{vcpus} vCPUs: from 1 to {MAX_VCPUS} can be told by these tables")
    dsdt = _table(b"DSDT", 2, b"")
    madt = _table(b"APIC", 3, _madt(vcpus))
    dsdt_at = _aligned(_RSDP_SIZE)
    madt_at = _aligned(dsdt_at + len(dsdt))
    fadt_at = _aligned(madt_at + len(madt))
    xsdt_at = _aligned(fadt_at + _FADT_SIZE)
    fadt = _table(b"FACP", 5, _fadt(address + dsdt_at))
    xsdt = _table(b"XSDT", 1, struct.pack("<QQ", address + fadt_at, address + madt_at))
    block = bytearray(xsdt_at + len(xsdt))
    for at, part in (
        (0, _rsdp(address + xsdt_at)),
        (dsdt_at, dsdt),
        (madt_at, madt),
        (fadt_at, fadt),
        (xsdt_at, xsdt),
    ):
        block[at : at + len(part)] = part
    return bytes(block)


def _rsdp(xsdt: int) -> bytes:
    first = bytearray(struct.pack("<8sB6sBI", b"RSD PTR ", 0, _OEM[0], 2, 0))
    first[8] = _checksum(first)
    whole = first + struct.pack("<IQB3x", _RSDP_SIZE, xsdt, 0)
    whole[32] = _checksum(whole)
    return bytes(whole)


def _table(signature: bytes, revision: int, body: bytes) -> bytes:
    header = struct.pack("<4sIBB6s8sI4sI", signature, _HEADER_SIZE + len(body), revision, 0, *_OEM, 1, _CREATOR, 1)
    table = bytearray(header + body)
    table[9] = _checksum(table)
    return bytes(table)


def _madt(vcpus: int) -> bytes:
    processors = b"".join(struct.pack("<BBBBI", 0, 8, vcpu, 2 * vcpu, 1) for vcpu in range(vcpus))
    return struct.pack("<II", _LAPIC_ADDRESS, 0) + processors


def _fadt(dsdt: int) -> bytes:
    body = bytearray(_FADT_SIZE - _HEADER_SIZE)
    flags = _HW_REDUCED | _PWR_BUTTON | _SLP_BUTTON
    for offset, form, value in (
        (40, "<I", dsdt),
        (109, "<H", _NO_VGA | _NO_CMOS_RTC),
        (112, "<I", flags),
        (140, "<Q", dsdt),
    ):
        struct.pack_into(form, body, offset - _HEADER_SIZE, value)
    return bytes(body)


def _checksum(data: bytes | bytearray) -> int:
    """What makes the sum of all bytes 0."""
    return -sum(data) & 0xFF


def _aligned(offset: int) -> int:
    return -(-offset // _ALIGN) * _ALIGN
