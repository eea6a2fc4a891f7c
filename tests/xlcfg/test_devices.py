# SPDX-License-Identifier: Apache-2.0
"""The strings of `disk`, `vif` and `pci`."""

import pytest

from xenops.types.disk import Disk, Local, RemoteDisk, Vdi
from xenops.types.network import Bridge, Remote
from xenops.types.pci import Pci
from xenops.types.record import UNSET, Maybe
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Rate, Vif
from xenops.xlcfg import ConfigError, load
from xenops.xlcfg.devices.disk import write

HEAD = "name = 'x'; type = 'hvm'\n"


def disks(*specs: str) -> list[Vbd]:
    return load(HEAD + f"disk = {list(specs)!r}", uuid="vm").metadata.vbds


def vifs(*specs: str) -> list[Vif]:
    return load(HEAD + f"vif = {list(specs)!r}", uuid="vm").metadata.vifs


def pci(spec: str) -> Pci:
    (device,) = load(HEAD + f"pci = ['{spec}']", uuid="vm").metadata.pcis
    return device


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in load(HEAD + text, filename="vm.cfg", uuid="vm").warnings]


RAW = Local(path="/dev/loop0")


@pytest.mark.parametrize(
    ("spec", "name", "backend", "ty", "mode"),
    [
        ("phy:/dev/loop0,hda,w", "hda", RAW, VbdType.DISK, Mode.READ_WRITE),
        ("phy:/dev/loop0,hda,R", "hda", RAW, VbdType.DISK, Mode.READ_ONLY),
        ("phy:loop0,xvda,w", "xvda", RAW, VbdType.DISK, Mode.READ_WRITE),
        (",hdb:cdrom,r", "hdb", UNSET, VbdType.CDROM, Mode.READ_ONLY),
        ("phy:/dev/loop0,hdb:cdrom,r", "hdb", RAW, VbdType.CDROM, Mode.READ_ONLY),
        ("phy:/dev/loop0,fda:floppy,w", "fda", RAW, VbdType.FLOPPY, Mode.READ_WRITE),
        ("/dev/loop0,raw,fda,r", "fda", RAW, VbdType.FLOPPY, Mode.READ_ONLY),
        (",raw,fdb,w", "fdb", UNSET, VbdType.FLOPPY, Mode.READ_WRITE),
        ("sm:SR/VDI,xvda,w", "xvda", Vdi(name="SR/VDI"), VbdType.DISK, Mode.READ_WRITE),
        ("file:/a.img,xvda,w", "xvda", Local(path="/a.img"), VbdType.DISK, Mode.READ_WRITE),
        ("tap2:aio:/a.img,xvda,w", "xvda", Local(path="/a.img"), VbdType.DISK, Mode.READ_WRITE),
        ("tap:qcow2:/a,xvda,w", "xvda", Local(path="/a", format="qcow2"), VbdType.DISK, Mode.READ_WRITE),
        ("/a,vhd,sdb1", "sdb1", Local(path="/a", format="vhd"), VbdType.DISK, Mode.READ_WRITE),
        ("/a,,xvda,,cdrom", "xvda", Local(path="/a"), VbdType.CDROM, Mode.READ_ONLY),
        ("/a, raw, xvda, w, cdrom", "xvda", Local(path="/a"), VbdType.CDROM, Mode.READ_ONLY),
        ("vdev=xvda,target=/a,b=c", "xvda", Local(path="/a,b=c"), VbdType.DISK, Mode.READ_WRITE),
        ("access=ro,vdev=xvda,target=sm:a,b", "xvda", Vdi(name="a,b"), VbdType.DISK, Mode.READ_ONLY),
        ("/a,raw,d5p1,w", "d5p1", Local(path="/a"), VbdType.DISK, Mode.READ_WRITE),
    ],
)
def test_disks(spec: str, name: str, backend: Maybe[Disk], ty: VbdType, mode: Mode) -> None:
    (vbd,) = disks(spec)
    assert (vbd.id.vm, vbd.id.dev, vbd.backend, vbd.ty, vbd.mode) == ("vm", name, backend, ty, mode)
    assert vbd.unpluggable
    assert vbd.persistent


def test_the_position_is_the_drives_canonical_name() -> None:
    assert [vbd.position for vbd in disks("/a,,d5p1", "/b,,2", "/c,,xvdaa")] == ["xvdf1", "hdc", "xvdaa"]


def test_disks_keep_their_order() -> None:
    assert [vbd.id.dev for vbd in disks("/a,,xvdc", "/b,,xvda", "/c,,xvdb")] == ["xvdc", "xvda", "xvdb"]


@pytest.mark.parametrize(
    ("spec", "keys"),
    [
        ("iscsi:iqn.2001,xvda,w", {"script": "/etc/xen/scripts/block-iscsi"}),
        ("/a,,xvda,,script=/opt/block-mine", {"script": "/opt/block-mine"}),
        ("/a,,xvda,,backendtype=qdisk", {"backend-kind": "qdisk"}),
        ("/a,,xvda,,backendtype=phy", {"backend-kind": "vbd"}),
        ("/a,,xvda,,no-discard,direct-io-safe", {"discard-enable": "0", "direct-io-safe": "1"}),
        ("/a,,xvda,,discard,trusted,specification=xen,backend=0", {"discard-enable": "1"}),
        ("/a,raw,xvda,w!", {"mode": "w!"}),
    ],
)
def test_what_the_back_end_of_a_disk_is_told(spec: str, keys: dict[str, str]) -> None:
    assert disks(spec)[0].extra_backend_keys == keys


def test_a_disk_in_a_driver_domain() -> None:
    (vbd,) = disks("backend=store,vdev=xvda,target=/dev/ram0")
    assert vbd.backend == RemoteDisk(vm="store", path="/dev/ram0")
    assert disks(write([vbd])[0])[0] == vbd


def test_a_script_gets_its_target_as_it_is() -> None:
    assert disks("drbd:app01,xvda,w")[0].backend == Local(path="app01")


@pytest.mark.parametrize(
    ("spec", "column", "words"),
    [
        ("/a", 10, "needs a vdev"),
        ("/a,raw,xvdaz9q,w", 17, "not a drive's name"),
        ("/a,xvda,w", 13, "is no disk format"),
        ("/a,raw,xvda,x", 22, "access is"),
        ("/a,raw,xvda,w,more", 24, "too many"),
        ("/a,raw,xvda,w,vdev=xvdb", 29, "twice"),
        ("/a,raw,xvda,devtype=cdrum", 30, "did you mean cdrom"),
        ("/a,raw,xvda,formt=raw", 22, "did you mean format"),
        ("/a=b,raw,xvda", 10, "target="),
        (",raw,xvda,w", 10, "needs a target"),
        ("nfs:/a,xvda,w", 10, "no disk prefix"),
        ("sm:,xvda,w", 10, "SR/VDI"),
        ("/a,raw,xvda,backend=a b", 30, "driver domain"),
        ("/a,qcow2,xvda,backend=store", 32, "driver domain"),
        ("/a,raw,xvda,backendtype=tap", 34, "backendtype is"),
        ("/a,raw,xvda,specification=virtio", 36, "specification"),
    ],
)
def test_disks_that_are_refused(spec: str, column: int, words: str) -> None:
    with pytest.raises(ConfigError, match="2:") as caught:
        disks(spec)
    assert (caught.value.line, caught.value.column) == (2, column)
    assert words in caught.value.reason


def test_two_disks_in_one_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="taken already by the disk number 1"):
        disks("/a,,xvda", "/b,,d0")


def test_the_column_is_right_behind_escapes() -> None:
    with pytest.raises(ConfigError) as caught:
        load(HEAD + r"disk = [ '/\x61\'b,raw,xvda,q' ]", uuid="vm")
    assert caught.value.text[caught.value.column - 1] == "q"


def test_a_vif_with_every_default() -> None:
    (vif,) = vifs("")
    assert (vif.id.dev, vif.position, vif.mac, vif.mtu, vif.backend) == ("0", 0, "", 1500, Bridge())


def test_everything_that_a_vif_can_be_told() -> None:
    (vif,) = vifs(
        "mac=00:16:3E:74:3d:77, bridge=br1,model=e1000,script=vif-route,ip=192.0.2.1,vifname=v,mtu=9000,vlan=7"
    )
    assert vif.mac == "00:16:3E:74:3d:77"
    assert vif.backend == Bridge(bridge="br1")
    assert (vif.model, vif.script, vif.ip, vif.vifname) == ("e1000", "vif-route", "192.0.2.1", "v")
    assert (vif.mtu, vif.vlan) == (9000, 7)


def test_vifs_keep_their_order_and_make_room_for_those_that_ask() -> None:
    assert [vif.position for vif in vifs("", "", "")] == [0, 1, 2]
    assert [vif.position for vif in vifs("", "devid=0", "")] == [1, 0, 2]
    assert [vif.id.dev for vif in vifs("devid=9", "")] == ["9", "0"]


def test_a_vif_in_a_driver_domain() -> None:
    assert vifs("backend=netdom,bridge=br0")[0].backend == Remote(vm="netdom", bridge="br0")
    assert vifs("backend=Domain-0")[0].backend == Bridge()


@pytest.mark.parametrize(
    ("rate", "kbytes", "timeslice_us"),
    [
        ("10Mb/s", 1221, 50_000),
        ("250KB/s", 244, 50_000),
        ("1MB/s@20ms", 977, 20_000),
        ("1GB/s@1s", 976563, 1_000_000),
        ("8b/s@7us", 1, 7),
        ("2048B/s@1", 2, 1_000_000),
    ],
)
def test_rates(rate: str, kbytes: int, timeslice_us: int) -> None:
    assert vifs(f"rate={rate}")[0].rate == Rate(kbytes_per_s=kbytes, timeslice_us=timeslice_us)


@pytest.mark.parametrize(
    ("spec", "column", "words"),
    [
        ("mac=00:16", 13, "MAC address"),
        ("bridge", 9, "key=value"),
        ("mtu=67", 13, "from 68"),
        ("mtu=many", 13, "from 68"),
        ("devid=256", 15, "from 0 to 255"),
        ("vlan=4096", 14, "4095"),
        ("bridge=b, rate=fast", 24, "not a rate"),
        ("rate=10Mb/s@0ms", 14, "out of range"),
        ("rate=0B/s", 14, "out of range"),
        ("rate=1B/s@4295s", 14, "out of range"),
        ("type=wifi", 14, "ioemu or vif"),
        ("backend=a b", 17, "driver domain"),
    ],
)
def test_vifs_that_are_refused(spec: str, column: int, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        vifs(spec)
    assert (caught.value.line, caught.value.column) == (2, column)
    assert words in caught.value.reason


def test_two_vifs_in_one_place_are_refused() -> None:
    with pytest.raises(ConfigError, match="devid=3"):
        vifs("devid=3", "devid=3")


def test_what_a_vif_cannot_be_told_yet_is_said() -> None:
    assert warnings("vif = [ 'gatewaydev=eth0, brige=x' ]") == [
        "vm.cfg:2: vif: gatewaydev is not supported yet; it has no effect",
        "vm.cfg:2: vif: there is no 'brige' in vif; it has no effect; did you mean bridge?",
    ]


def test_pci_devices() -> None:
    assert str(pci("36:00.0").address) == "0000:36:00.0"
    device = pci("0001:36:1f.7,msitranslate=1,power_mgmt=0")
    assert (str(device.address), device.msitranslate, device.power_mgmt) == ("0001:36:1f.7", True, False)
    assert pci("bdf=36:00.0,seize=0").msitranslate is UNSET


@pytest.mark.parametrize("spec", ["36:00.0@20,seize=1", "36:00.0,vslot=20,seize=1", "bdf=36:00.0,vslot=20,seize=1"])
def test_the_manuals_spellings_of_a_pci_device(spec: str) -> None:
    assert str(pci(spec).address) == "0000:36:00.0"
    assert [line.split(": ", 2)[2] for line in warnings(f"pci = [ '{spec}' ]")] == [
        "the slot 20 in the guest cannot be chosen yet; it has no effect",
        "seize is not supported yet; it has no effect",
    ]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "not a PCI address"),
        ("36:20.0", "not a PCI address"),
        ("36:00.8", "not a PCI address"),
        ("36:00.*", "each function"),
        ("name=gpu", "by name"),
        ("36:00.0,permisive=1", "did you mean permissive"),
        ("36:00.0,seize", "key=value"),
        ("36:00.0,seize=yes", "0 or 1"),
        ("36:00.0,bdf=36:00.1", "twice"),
    ],
)
def test_pci_devices_that_are_refused(spec: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        pci(spec)
    assert caught.value.line == 2
    assert words in caught.value.reason
