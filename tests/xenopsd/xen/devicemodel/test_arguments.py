# SPDX-License-Identifier: Apache-2.0
"""QEMU's command lines: a few as golden files, and that no record can slip an option in."""

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import BadRequest
from xenops.types.disk import Local, Vdi
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Vif
from xenops.types.vm import MIB, Direct, Hvm, Pv, Video, Vm
from xenopsd.backends.xen.devicemodel.arguments import back_end, devid_of, drive_id, emulator, missing_vcpus
from xenopsd.backends.xen.devicemodel.places import Places

GOLDEN = Path(__file__).parents[3] / "golden/devicemodel"
PLACES = Places.of(Path("/run/xenopsd"), 7)


def machine(
    *vbds: Vbd, vifs: list[Vif] | None = None, platform: dict[str, str] | None = None, **hvm: object
) -> Metadata:
    vm = Vm(
        id="guest",
        name="a guest",
        ty=Hvm(**hvm),  # type: ignore[arg-type]
        memory_static_max=512 * MIB,
        vcpu_max=4,
        vcpus=2,
        platformdata=platform or {},
    )
    return Metadata(vm=vm, vbds=list(vbds), vifs=vifs or [])


def disk(position: str, path: str = "/dev/vg/root", **more: object) -> Vbd:
    return Vbd(
        id=DeviceId(vm="guest", dev=position),
        position=position,
        **{"backend": Local(path=path), **more},  # type: ignore[arg-type]
    )


def cd(position: str, path: str | None = None) -> Vbd:
    medium = {"backend": Local(path=path)} if path else {}
    return Vbd(
        id=DeviceId(vm="guest", dev=position), position=position, ty=VbdType.CDROM, mode=Mode.READ_ONLY, **medium
    )


def nic(position: int, **more: object) -> Vif:
    id = DeviceId(vm="guest", dev=str(position))
    return Vif(id=id, position=position, mac=f"00:16:3e:00:00:{position:02x}", **more)  # type: ignore[arg-type]


CASES = {
    "plain": emulator(machine(disk("hda"), cd("hdc"), vifs=[nic(0)], boot_order="cd"), PLACES, False, False),
    "rich": emulator(
        machine(
            disk("xvda", "/images/a,b.qcow2", backend=Local(path="/images/a,b.qcow2", format="qcow2")),
            disk("xvdb", mode=Mode.READ_WRITE),
            disk("xvde", "/dev/vg/not-emulated"),
            cd("xvdd", "/isos/install.iso"),
            disk("sda", "/dev/vg/scsi", mode=Mode.READ_ONLY),
            vifs=[nic(0, model="e1000"), nic(2), nic(3, model="netfront")],
            video=Video.STANDARD_VGA,
            video_mib=16,
            keymap="de",
            vnc_ip="192.0.2.1",
            acpi=False,
            serial="none",
            boot_order="ndc",
        ),
        PLACES,
        True,
        True,
    ),
    "ahci": emulator(
        machine(
            disk("hda"),
            disk("hdb"),
            platform={"hdtype": "ahci", "xen_platform_pci": "0", "usb": "0"},
        ),
        PLACES,
        False,
        False,
    ),
    "back-end": back_end("a guest", PLACES, False),
    "back-end-with-screen": back_end("a guest", PLACES, True, framebuffer=True),
}


@pytest.mark.parametrize("name", CASES)
def test_golden_command_lines(name: str) -> None:
    path = GOLDEN / f"{name}.txt"
    text = "\n".join(CASES[name]) + "\n"
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert text == path.read_text()


@pytest.mark.parametrize(
    ("wanted", "field"),
    [
        (machine(disk("hda", mode=Mode.READ_ONLY)), "vbd.mode"),
        (machine(disk("hde", mode=Mode.READ_ONLY), platform={"hdtype": "ahci"}), "vbd.mode"),
        (machine(disk("hda", "nbd:example.org:10809")), "vbd.backend.path"),
        (machine(disk("hda", backend=Local(path="/d", format="raw,readonly=off"))), "vbd.backend.format"),
        (machine(disk("hda", backend=Vdi(name="sr/vdi"))), "vbd.backend"),
        (machine(disk("bogus")), "vbd.position"),
        (machine(vifs=[nic(0, model="e1000,romfile=/etc/passwd")]), "vif.model"),
        (machine(vifs=[Vif(id=DeviceId(vm="guest", dev="0"), mac="random")]), "vif.mac"),
        (machine(keymap="../../etc/passwd"), "vm.ty.keymap"),
        (machine(vnc_ip="example.org"), "vm.ty.vnc_ip"),
        (machine(serial="tcp::4444,server"), "vm.ty.serial"),
        (machine(serial="stdio"), "vm.ty.serial"),
        (machine(boot_order="c,menu=on"), "vm.ty.boot_order"),
        (machine(boot_order="cc"), "vm.ty.boot_order"),
        (machine(boot_order="acdn"), "vm.ty.boot_order"),
        (machine(video=Video.VGPU), "vm.ty.video"),
        (machine(platform={"usb": "perhaps"}), "platformdata.usb"),
        (machine(vnc_ip="192.0.2.1", platform={"vncdisplay": "59636"}), "platformdata.vncdisplay"),
        (machine(vnc_ip="192.0.2.1", platform={"vncdisplay": "1,password=off"}), "platformdata.vncdisplay"),
        (Metadata(vm=Vm(id="guest", ty=Pv(boot=Direct()))), "vm.ty"),
    ],
)
def test_what_cannot_be_emulated_is_said_by_name(wanted: Metadata, field: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        emulator(wanted, PLACES, False, False)
    assert refusal.value.path == field


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", ""])
def test_no_port_is_opened_for_loopback(address: str) -> None:
    screens = [word for word in emulator(machine(vnc_ip=address), PLACES, False, False) if "vnc" in word]
    assert screens == ["-vnc", "unix:/run/xenopsd/qemu/7/vnc"]


@pytest.mark.parametrize(
    ("platform", "screen"),
    [
        ({}, "192.0.2.1:0,to=99,id=tcp"),
        ({"vncdisplay": "7"}, "192.0.2.1:7,to=99,id=tcp"),
        ({"vncdisplay": "7", "vncunused": "false"}, "192.0.2.1:7,id=tcp"),
        ({"vncdisplay": "200"}, "192.0.2.1:200,to=200,id=tcp"),
    ],
)
def test_the_display_is_the_one_that_is_asked_for(platform: dict[str, str], screen: str) -> None:
    assert screen in emulator(machine(vnc_ip="192.0.2.1", platform=platform), PLACES, False, False)


_TEXT = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=40)


@given(_TEXT, _TEXT)
def test_a_value_stays_a_value(name: str, path: str) -> None:
    """As QEMU reads an option: a comma ends a value, two are one."""
    wanted = machine(disk("hda", "/" + path))
    argv = emulator(Metadata(vm=_renamed(wanted.vm, name), vbds=wanted.vbds), PLACES, False, False)
    assert _values(argv[argv.index("-name") + 1]) == {"guest": name}
    drive = _values(argv[argv.index("-drive") + 1])
    assert drive["file"] == "/" + path
    assert set(drive) == {"if", "index", "media", "cache", "file", "format"}


def test_drives_of_events_are_recognised() -> None:
    assert devid_of(drive_id(5632)) == 5632
    for other in ("ide-", "ide-x", "ide-0 ", "ide1-cd0", 7, None, "ide-" + "9" * 30):
        assert devid_of(other) is None


def _renamed(vm: Vm, name: str) -> Vm:
    return Vm(id=vm.id, name=name, ty=vm.ty)


def _values(option: str) -> dict[str, str]:
    parts = option.replace(",,", "\0").split(",")
    return {key: value.replace("\0", ",") for key, _, value in (part.partition("=") for part in parts)}


def test_vcpus_are_added_in_their_order_and_once() -> None:
    def slot(socket: int, **more: str) -> dict[str, object]:
        props = {"socket-id": socket, "core-id": 0, "thread-id": 0}
        return {"type": "qemu32-i386-cpu", "vcpus-count": 1, "props": props, **more}

    slots = [slot(3), slot(2), slot(1), slot(0, **{"qom-path": "/machine/unattached/device[0]"})]
    added = missing_vcpus(slots, 3)
    assert [(device["id"], device["socket-id"], device["driver"]) for device in added] == [
        ("cpu-1", 1, "qemu32-i386-cpu"),
        ("cpu-2", 2, "qemu32-i386-cpu"),
    ]
    assert missing_vcpus(slots, 1) == missing_vcpus("nonsense", 4) == []
