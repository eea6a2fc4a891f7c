# SPDX-License-Identifier: Apache-2.0
"""Drive names and keys: the ABI's table, its examples, and the way back from each."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.types.device_number import Bus, DeviceNumber

EXAMPLES = [
    (Bus.XEN, 0, 0, "xvda", 51712),
    (Bus.XEN, 0, 1, "xvda1", 51713),
    (Bus.XEN, 15, 15, "xvdp15", 51967),
    (Bus.XEN, 16, 0, "xvdq", 268439552),
    (Bus.XEN, 26, 0, "xvdaa", 268442112),
    (Bus.IDE, 0, 0, "hda", 768),
    (Bus.IDE, 0, 1, "hda1", 769),
    (Bus.IDE, 2, 2, "hdc2", 5634),
    (Bus.IDE, 4, 0, "hde", 8448),
    (Bus.IDE, 5, 0, "hdf", 8512),
    (Bus.IDE, 8, 0, "hdi", 14336),
    (Bus.IDE, 15, 0, "hdp", 22848),
    (Bus.SCSI, 0, 0, "sda", 2048),
    (Bus.SCSI, 1, 3, "sdb3", 2067),
    (Bus.FLOPPY, 1, 0, "fdb", 51984),
]


@st.composite
def numbers(draw: st.DrawFn) -> DeviceNumber:
    bus = draw(st.sampled_from(Bus))
    disk = draw(st.integers(0, {Bus.XEN: (1 << 20) - 1, Bus.SCSI: 15, Bus.FLOPPY: 2, Bus.IDE: 19}[bus]))
    limits = {Bus.XEN: 15 if disk < 16 else 255, Bus.SCSI: 15, Bus.FLOPPY: 0, Bus.IDE: 63}
    return DeviceNumber(bus, disk, draw(st.integers(0, limits[bus])))


@pytest.mark.parametrize(("bus", "disk", "partition", "name", "key"), EXAMPLES)
def test_the_examples_of_the_abi(bus: Bus, disk: int, partition: int, name: str, key: int) -> None:
    number = DeviceNumber(bus, disk, partition)
    assert number.name == name
    assert number.to_key() == key
    assert DeviceNumber.parse(name) == number
    assert DeviceNumber.from_key(key) == number


@pytest.mark.parametrize(
    ("one", "other"),
    [("d0", "xvda"), ("d0", "0"), ("d5", "5"), ("xvdf", "5"), ("d0p0", "xvda"), ("d536p37", "xvdtq37")],
)
def test_spellings_of_the_same_drive(one: str, other: str) -> None:
    assert DeviceNumber.parse(one) == DeviceNumber.parse(other)


def test_plain_numbers_of_an_hvm_guest_are_ide_up_to_three() -> None:
    assert DeviceNumber.parse("3", hvm=True) == DeviceNumber(Bus.IDE, 3)
    assert DeviceNumber.parse("4", hvm=True) == DeviceNumber(Bus.XEN, 4)
    assert DeviceNumber.parse("3") == DeviceNumber(Bus.XEN, 3)


@pytest.mark.parametrize("name", ["hda", "hdc2", "hdt"])
def test_linux_shows_ide_drives_as_xen_drives(name: str) -> None:
    assert str(DeviceNumber.parse(name)) == "xvd" + name[2:]


@pytest.mark.parametrize(
    "text",
    ["", "d", "xvd", "d0p0q", "d0p", "dp1", "hda64", "hdu", "sdq", "sda16", "fdd", "fda1", "xvda16", "xvdbgqcw", "-1",
     "xvda 1", "XVDA", "d1048576", "xvdtq256", "١"],
)  # fmt: skip
def test_what_is_no_drive(text: str) -> None:
    with pytest.raises(ValueError, match=r"is not a"):
        DeviceNumber.parse(text)


@pytest.mark.parametrize("key", [-1, 0, 767, 768 + 128, 1 << 29, (1 << 28) + (1 << 29), 203 << 8 | 3 << 4, 92 << 8])
def test_what_is_no_key(key: int) -> None:
    with pytest.raises(ValueError, match=r"is not"):
        DeviceNumber.from_key(key)


@given(numbers())
def test_there_and_back(number: DeviceNumber) -> None:
    assert DeviceNumber.from_key(number.to_key()) == number
    assert DeviceNumber.parse(number.name) == number


@given(st.integers())
def test_a_key_is_refused_or_names_a_drive(key: int) -> None:
    try:
        number = DeviceNumber.from_key(key)
    except ValueError:
        return
    # The extended form can also spell the first sixteen disks; what is printed is the short form.
    assert DeviceNumber.from_key(number.to_key()) == number


@given(st.text() | st.from_regex(r"(xvd|hd|sd|fd|d)[a-z0-9]{1,8}", fullmatch=True))
def test_no_text_crashes_it(text: str) -> None:
    try:
        number = DeviceNumber.parse(text)
    except ValueError:
        return
    assert DeviceNumber.parse(number.name) == number
