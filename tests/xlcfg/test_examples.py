# SPDX-License-Identifier: Apache-2.0
"""Every example file is a configuration, ours and those that come with Debian's Xen."""

from pathlib import Path

import pytest

from xenops.types.device_number import DeviceNumber
from xenops.types.disk import Local
from xenops.types.record import UNSET
from xenops.types.vbd import Mode, VbdType
from xenops.types.vm import MIB, Hvm
from xenops.xlcfg import dump, load

OURS = sorted((Path(__file__).parents[2] / "examples").glob("*.cfg"))
DEBIANS = sorted(Path("/etc/xen").glob("xlexample.*"))
UUID = "5d6f0d3a-9c1e-4f0b-8f4e-2f3c7a1b9e21"


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_our_examples_mean_something_in_every_line(path: Path) -> None:
    loaded = load(path.read_text(), filename=path.name, uuid=UUID)
    assert loaded.warnings == ()
    assert loaded.metadata.vm.name == path.stem
    assert load(dump(loaded.metadata)).metadata == loaded.metadata


def test_there_are_examples() -> None:
    assert {path.name for path in OURS} >= {"myfirstvm.cfg", "pv-linux.cfg", "pvh-linux.cfg", "hvm-full.cfg"}


def test_my_first_vm() -> None:
    (path,) = (path for path in OURS if path.name == "myfirstvm.cfg")
    metadata = load(path.read_text(), filename=path.name, uuid=UUID).metadata
    assert isinstance(metadata.vm.ty, Hvm)
    assert metadata.vm.ty.boot_order == "dc"
    assert metadata.vm.memory_static_max == 256 * MIB
    disk, drive = metadata.vbds
    assert (disk.id.dev, disk.position, disk.backend, disk.mode) == (
        "hda",
        "hda",
        Local(path="/dev/loop0"),
        Mode.READ_WRITE,
    )
    assert DeviceNumber.parse("hda").to_key() == 768
    assert (drive.id.dev, drive.backend, drive.ty, drive.mode) == ("hdb", UNSET, VbdType.CDROM, Mode.READ_ONLY)
    (vif,) = metadata.vifs
    assert (vif.mac, vif.model) == ("00:16:3E:74:3d:77", "rtl8139")
    assert metadata.pcis == []


@pytest.mark.skipif(not DEBIANS, reason="Debian's package xen-utils-common is not installed")
@pytest.mark.parametrize("path", DEBIANS, ids=lambda path: path.name)
def test_the_examples_of_debians_xen(path: Path) -> None:
    loaded = load(path.read_text(), filename=path.name, uuid=UUID)
    assert [warning.key for warning in loaded.warnings] == (["sdl"] if path.suffix == ".hvm" else [])
    assert load(dump(loaded.metadata)).metadata == loaded.metadata
