# SPDX-License-Identifier: Apache-2.0
"""Where a guest's memory lies: the memory maps of PVH and HVM guests, and the split around the hole below 4 GiB."""

import struct
from dataclasses import dataclass

GIB = 1 << 30
FOUR_GIB = 4 * GIB
ACPI_ADDRESS = 0xFC000000  # where the ACPI tables of a PVH guest are put, and its memory-mapped space begins
HVM_MMIO_START = 0xF0000000  # hvmloader's PCI space
_SPECIAL_PAGES = 0xFEFF8000  # rings, console, start-of-day: the builder puts them there
_SPECIAL_SIZE = 0x8000
_LAPIC = 0xFEE00000
_PAGE = 0x1000
_LEGACY_END = 0x100000  # hvmloader lays out the first MiB itself

RAM, RESERVED, ACPI = 1, 2, 3
_ENTRY = struct.Struct("<QQI")  # packed


@dataclass(frozen=True)
class Split:
    """Memory below and above 4 GiB; `high_end` is 0 when there is none above."""

    low_end: int
    high_end: int
    mmio_start: int

    @property
    def mmio_size(self) -> int:
        """From the hole's start to 4 GiB."""
        return FOUR_GIB - self.mmio_start


def split(memory: int, mmio_start: int) -> Split:
    """Bytes of memory around the hole that begins at `mmio_start`."""
    low = min(memory, mmio_start)
    return Split(low, FOUR_GIB + memory - low if memory > low else 0, mmio_start)


def pvh_map(memory: Split, acpi_size: int) -> list[tuple[int, int, int]]:
    """Address, size and kind of each range, in ascending order; without ACPI tables, none is shown for them."""
    entries = [(0, memory.low_end, RAM)]
    if acpi_size:
        entries.append((ACPI_ADDRESS, -(-acpi_size // _PAGE) * _PAGE, ACPI))
    entries.append((_LAPIC, _PAGE, RESERVED))
    entries.append((_SPECIAL_PAGES, _SPECIAL_SIZE, RESERVED))
    if memory.high_end:
        entries.append((FOUR_GIB, memory.high_end - FOUR_GIB, RAM))
    return entries


def hvm_map(memory: Split) -> list[tuple[int, int, int]]:
    """What hvmloader makes the guest's own map of: the memory alone."""
    entries = [(_LEGACY_END, memory.low_end - _LEGACY_END, RAM)]
    if memory.high_end:
        entries.append((FOUR_GIB, memory.high_end - FOUR_GIB, RAM))
    return entries


def pack(entries: list[tuple[int, int, int]]) -> bytes:
    """As the hypervisor and the guest read it."""
    return b"".join(_ENTRY.pack(*entry) for entry in entries)
