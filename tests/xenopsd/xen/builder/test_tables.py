# SPDX-License-Identifier: Apache-2.0
"""What a PVH guest reads of its machine: the memory map and the ACPI tables."""

import struct
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenopsd.backends.xen.builder import acpi, e820

MIB = 1 << 20


@given(st.integers(1, 1 << 20), st.sampled_from([e820.ACPI_ADDRESS, e820.HVM_MMIO_START]))
def test_no_memory_is_lost_around_the_hole(mib: int, mmio_start: int) -> None:
    memory = e820.split(mib * MIB, mmio_start)
    high = memory.high_end - e820.FOUR_GIB if memory.high_end else 0
    assert memory.low_end + high == mib * MIB
    assert memory.low_end <= mmio_start
    assert memory.mmio_start + memory.mmio_size == e820.FOUR_GIB


@given(st.integers(1, 1 << 20), st.integers(0, 20000))
def test_the_map_is_in_order_and_nothing_overlaps(mib: int, acpi_size: int) -> None:
    entries = e820.pvh_map(e820.split(mib * MIB, e820.ACPI_ADDRESS), acpi_size)
    assert sum(size for _, size, kind in entries if kind == e820.RAM) == mib * MIB
    assert [kind for _, _, kind in entries].count(e820.ACPI) == (acpi_size > 0)
    for (address, size, _), (following, _, _) in pairwise(entries):
        assert address + size <= following
    assert all(size > 0 and address % 4096 == size % 4096 == 0 for address, size, _ in entries)
    packed = e820.pack(entries)
    assert [struct.unpack_from("<QQI", packed, at) for at in range(0, len(packed), 20)] == entries


@given(st.integers(2, 1 << 20))
def test_the_map_for_hvmloader_leaves_it_the_first_mebibyte(mib: int) -> None:
    entries = e820.hvm_map(e820.split(mib * MIB, e820.HVM_MMIO_START))
    assert entries[0][0] == MIB
    assert sum(size for _, size, _ in entries) == (mib - 1) * MIB
    assert {kind for _, _, kind in entries} == {e820.RAM}


@given(st.integers(1, acpi.MAX_VCPUS), st.integers(0, (1 << 20) - 2).map(lambda page: page << 12))
def test_every_table_is_found_from_the_root_and_adds_up(vcpus: int, address: int) -> None:
    block = acpi.tables(vcpus, address)
    assert (block[:8], block[15]) == (b"RSD PTR ", 2)
    assert sum(block[:20]) % 256 == sum(block[:36]) % 256 == 0
    [xsdt_at] = struct.unpack_from("<Q", block, 24)
    xsdt = _table(block, xsdt_at - address, b"XSDT")
    fadt_at, madt_at = struct.unpack("<QQ", xsdt[36:])
    fadt, madt = _table(block, fadt_at - address, b"FACP"), _table(block, madt_at - address, b"APIC")
    [dsdt_at] = struct.unpack_from("<Q", fadt, 140)
    assert len(_table(block, dsdt_at - address, b"DSDT")) == 36
    assert struct.unpack_from("<I", fadt, 112)[0] & 1 << 20, "the hardware is reduced"
    processors = [struct.unpack_from("<BBBBI", madt, at) for at in range(44, len(madt), 8)]
    assert processors == [(0, 8, vcpu, 2 * vcpu, 1) for vcpu in range(vcpus)]


@pytest.mark.parametrize("vcpus", [0, 129])
def test_more_processors_than_can_be_told(vcpus: int) -> None:
    with pytest.raises(ValueError, match="vCPUs"):
        acpi.tables(vcpus, 0)


def _table(block: bytes, at: int, signature: bytes) -> bytes:
    name, length = struct.unpack_from("<4sI", block, at)
    table = block[at : at + length]
    assert (name, len(table), sum(table) % 256) == (signature, length, 0)
    return table
