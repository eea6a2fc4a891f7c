# SPDX-License-Identifier: Apache-2.0
"""There and back: what is printed means what it was printed from, and says what it leaves out."""

import re

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from xenops.types.disk import Local, Vdi
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.network import Bridge, Remote, Sriov
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vgpu import Empty, Vgpu
from xenops.types.vif import Locked, Rate, Unlocked, Vif
from xenops.types.vm import (
    MIB,
    Action,
    Bios,
    Direct,
    Hvm,
    Indirect,
    Pv,
    Pvh,
    PvInPvh,
    SchedulerParams,
    SchedulerPriority,
    Uefi,
    UefiOnBoot,
    Video,
    Vm,
)
from xenops.xlcfg import dump, load

UUID = "5d6f0d3a-9c1e-4f0b-8f4e-2f3c7a1b9e21"

# Configurations that mean something, put together from settings that each do.
WORDS = st.sampled_from(["x", "a b", "it's", 'say "no"', "back\\slash", "tab\there", "ünï", "#;=[],"])
QUOTED = WORDS.map(lambda word: "'" + word.replace("\\", "\\\\").replace("'", "\\'").replace("\t", "\\t") + "'")
FLAG = st.sampled_from(["0", "1"])
SMALL = st.integers(1, 64).map(str)
ACTION = st.sampled_from(["'destroy'", "'restart'", "'preserve'", "'coredump-destroy'", "'soft-reset'"])
DISKS = st.lists(
    st.sampled_from(
        [
            "'phy:/dev/loop0,hda,w'",
            "',hdc:cdrom,r'",
            "'/a b,qcow2,xvdb,ro'",
            "'vdev=xvdc, access=ro, target=/a,b=c'",
            "'sm:SR/VDI,xvdd,w'",
            "'vdev=sda,devtype=cdrom,target=sm:SR/V,DI'",
            "'iscsi:iqn.2001,xvde,w'",
            "'/a,raw,fda,w,backendtype=qdisk,no-discard'",
            "'/a,raw,xvdg,w!'",
            "'/a,raw,d7p2,w,direct-io-safe,discard'",
        ]
    ),
    unique=True,
).map(lambda entries: f"[{','.join(entries)}]")
VIFS = st.lists(
    st.sampled_from(
        [
            "''",
            "'mac=00:16:3E:74:3d:77,model=rtl8139,bridge=xenbr0'",
            "'bridge=br1,rate=10Mb/s@20ms,mtu=9000'",
            "'rate=250KB/s,vlan=12,script=vif-route,ip=192.0.2.1,vifname=v1'",
            "'backend=netdom,bridge=br2,type=vif'",
        ]
    )
).map(lambda entries: f"[{','.join(entries)}]")
PCIS = st.lists(st.sampled_from(["'01:00.0'", "'0002:1f:1f.7,msitranslate=0'", "'03:00.1@5,power_mgmt=1'"])).map(
    lambda entries: f"[{','.join(entries)}]"
)
SETTINGS: dict[str, st.SearchStrategy[str]] = {
    "boot": st.sampled_from(["'c'", "'dc'", "'ncd'", "''"]),
    **dict.fromkeys(["name", "cmdline", "extra", "root", "serial", "keymap", "vtpm", "ramdisk"], QUOTED),
    **dict.fromkeys(["acpi", "hap", "nx", "viridian", "hpet", "vnc", "stdvga", "nomigrate", "localtime", "usb"], FLAG),
    **dict.fromkeys(["pci_msitranslate", "pci_power_mgmt", "has_vendor_device", "pvshim", "vpmu", "nestedhvm"], FLAG),
    **dict.fromkeys(["memory", "videoram", "max_grant_frames", "vncdisplay", "cpu_weight", "cap"], SMALL),
    **dict.fromkeys(["on_poweroff", "on_reboot", "on_crash", "on_soft_reset"], ACTION),
    "maxmem": st.integers(64, 4096).map(str),
    "maxvcpus": st.integers(8, 64).map(str),
    "vcpus": st.integers(1, 8).map(str),
    "cpus": st.sampled_from(["'all'", "'0-7,^3'", "4", "[ '0', '1-3,9' ]", "[]"]),
    "bootloader": st.sampled_from(["'pygrub'", "'/usr/bin/pv grub'"]),
    "bootloader_args": st.sampled_from(["'-q --entry=0'", "[ '--entry=0', 'two words', 'it\\'s' ]"]),
    "bios": st.sampled_from(["'ovmf'", "'seabios'"]),
    "vga": st.sampled_from(["'stdvga'", "'cirrus'"]),
    "vnclisten": st.sampled_from(["'0.0.0.0'", "'::1'"]),
    "hdtype": st.sampled_from(["'ahci'", "'ide'"]),
    "timer_mode": st.sampled_from(["2", "'no_missed_ticks_pending'"]),
    "rtc_timeoffset": st.sampled_from(["3600", "'-60'", "0"]),
    "passthrough": st.just("'enabled'"),
    "uuid": st.just("'0b8a4f0e-6a3d-4f55-9b0a-5a3e1c9d7f42'"),
    "disk": DISKS,
    "vif": VIFS,
    "pci": PCIS,
}


@st.composite
def configurations(draw: st.DrawFn) -> str:
    keys = draw(st.lists(st.sampled_from(sorted(SETTINGS)), unique=True))
    kind = draw(st.sampled_from(["type = 'hvm'", "kernel = '/k'", "type = 'pvh'\nkernel = '/k'", "builder = 'hvm'"]))
    return kind + "\n" + "".join(f"{key} = {draw(SETTINGS[key])}\n" for key in keys)


@given(configurations())
def test_what_was_loaded_is_printed_and_loaded_again_without_loss(text: str) -> None:
    loaded = load(text, uuid=UUID).metadata
    printed = dump(loaded)
    again = load(printed)
    assert again.metadata == loaded
    # Fewer entries of cpus than vCPUs mean what they mean, and are remarked upon each time.
    assert {warning.key for warning in again.warnings} <= {"cpus"}
    assert "not expressible" not in printed
    assert dump(again.metadata) == printed


# Any machine at all, with what the language can say and what it cannot.
ANY_TEXT = st.text(max_size=12) | WORDS | st.just("")
MAYBE_TEXT = ANY_TEXT | st.just(UNSET)
ANY_FLAGS = st.dictionaries(
    st.sampled_from(["nx", "acpi", "viridian", "timer_mode", "vncdisplay", "hap", "odd"]),
    st.sampled_from(["true", "false", "1", "3", "4", "-1", "007", "999999999999", "x", ""]),
)
ADDRESSES = st.builds(
    PciAddress,
    domain=st.integers(0, 0xFFFF),
    bus=st.integers(0, 0xFF),
    dev=st.integers(0, 0x1F),
    fn=st.integers(0, 7),
)
BACKENDS = st.builds(
    Local, path=st.text(min_size=1, max_size=9) | st.just("/a,b"), format=st.sampled_from(["raw", "x"])
)
NUMBERS = st.integers(0, 255)
BOOTS = st.builds(Direct, kernel=ANY_TEXT, cmdline=ANY_TEXT, ramdisk=MAYBE_TEXT) | st.builds(
    Indirect,
    bootloader=ANY_TEXT,
    extra_args=ANY_TEXT,
    legacy_args=ANY_TEXT,
    bootloader_args=ANY_TEXT | st.just("'open"),
    devices=st.lists(BACKENDS, max_size=2),
)
PARAVIRTUAL = {
    "boot": BOOTS,
    "framebuffer": st.booleans(),
    "framebuffer_ip": MAYBE_TEXT,
    "vncterm": st.booleans(),
    "vncterm_ip": MAYBE_TEXT,
    "pci_passthrough": st.booleans(),
}
GUESTS = st.one_of(
    st.builds(
        Hvm,
        hap=st.booleans(),
        shadow_multiplier=st.sampled_from([1.0, 4.0]),
        timeoffset=ANY_TEXT | st.sampled_from(["-5", "7", "--1", "٣"]),
        video_mib=st.integers(-1, 9999),
        video=st.sampled_from(Video),
        acpi=st.booleans(),
        serial=MAYBE_TEXT,
        vnc_ip=MAYBE_TEXT,
        boot_order=ANY_TEXT,
        firmware=st.sampled_from([Bios(), Uefi(), Uefi(on_boot=UefiOnBoot.RESET)]),
        tpm=MAYBE_TEXT,
        pci_passthrough=st.booleans(),
    ),
    *(st.builds(kind, **PARAVIRTUAL) for kind in (Pv, Pvh, PvInPvh)),
)
PRIORITY = st.builds(SchedulerPriority, weight=st.integers(1, 65535), cap=st.integers(0, 1 << 40)) | st.just(UNSET)
SCHEDULING = st.builds(
    SchedulerParams, priority=PRIORITY, affinity=st.lists(st.lists(st.integers(0, 9999), max_size=3), max_size=3)
)
ACTIONS = st.lists(st.sampled_from(Action), max_size=2)
MACHINES = st.builds(
    Vm,
    id=st.sampled_from([UUID, "vm7", "Vm_7-x"]),
    name=ANY_TEXT,
    ty=GUESTS,
    ssidref=st.integers(0, 9),
    xsdata=st.dictionaries(ANY_TEXT, ANY_TEXT, max_size=1),
    platformdata=ANY_FLAGS,
    memory_static_max=st.integers(0, 1 << 66) | st.just(64 * MIB),
    memory_dynamic_max=st.integers(0, 1 << 66) | st.just(64 * MIB),
    vcpu_max=st.integers(1, 4096),
    vcpus=st.integers(1, 4096),
    scheduler_params=SCHEDULING,
    on_crash=ACTIONS,
    has_vendor_device=st.booleans(),
)
VBDS = st.lists(
    st.builds(
        Vbd,
        id=st.builds(DeviceId, vm=st.just(UUID), dev=st.sampled_from(["xvda", "hda", "root", "0", "d1", "fda"])),
        position=st.sampled_from(["xvda", "xvdb", "hda", "fda", "0", "nowhere", UNSET]),
        mode=st.sampled_from(Mode),
        backend=BACKENDS | st.builds(Vdi, name=st.text(min_size=1, max_size=9)) | st.just(UNSET),
        ty=st.sampled_from(VbdType),
        extra_backend_keys=st.dictionaries(st.sampled_from(["script", "backend-kind", "odd"]), ANY_TEXT, max_size=2),
    ),
    max_size=3,
    unique_by=lambda vbd: vbd.id.dev,
)
NETWORKS = st.one_of(
    st.builds(Bridge, bridge=st.sampled_from(["b", "a,b", ""])),
    st.builds(Remote, vm=st.sampled_from(["dom0", "netdom"]), bridge=st.sampled_from(["b", " b"])),
    st.builds(Sriov, address=ADDRESSES),
)
VIF_LIST = st.lists(
    st.builds(
        Vif,
        id=st.builds(DeviceId, vm=st.just(UUID), dev=st.sampled_from(["0", "1", "nic"])),
        position=NUMBERS,
        mac=ANY_TEXT | st.just("00:16:3e:00:00:01"),
        carrier=st.booleans(),
        mtu=st.integers(68, 65535),
        rate=st.builds(Rate, kbytes_per_s=st.integers(1, 1 << 60), timeslice_us=st.integers(1, 1 << 60))
        | st.just(UNSET),
        backend=NETWORKS,
        ip=MAYBE_TEXT,
        script=MAYBE_TEXT,
        locking_mode=st.sampled_from([Unlocked(), Locked(ipv4=["192.0.2.1"])]),
        vlan=st.integers(0, 4095) | st.just(UNSET),
    ),
    max_size=3,
    unique_by=lambda vif: vif.id.dev,
)
PCI_LIST = st.lists(
    st.builds(
        Pci,
        id=st.builds(DeviceId, vm=st.just(UUID), dev=st.sampled_from(["0", "1", "gpu"])),
        position=NUMBERS,
        address=ADDRESSES,
        msitranslate=st.booleans() | st.just(UNSET),
    ),
    max_size=2,
    unique_by=lambda pci: pci.id.dev,
)
METADATA = st.builds(
    Metadata,
    vm=MACHINES,
    vbds=VBDS,
    vifs=VIF_LIST,
    pcis=PCI_LIST,
    vgpus=st.lists(
        st.builds(
            Vgpu,
            id=st.just(DeviceId(vm=UUID, dev="0")),
            physical_pci_address=ADDRESSES,
            implementation=st.just(Empty()),
        ),
        max_size=1,
    ),
    domains=st.just({"opaque": b"\x00"}) | st.just(UNSET),
)


@given(METADATA)
def test_any_machine_can_be_printed_and_what_is_lost_is_said(metadata: Metadata) -> None:
    printed = dump(metadata)
    again = load(printed, uuid=metadata.vm.id).metadata
    assert (again == metadata) == ("# not expressible:" not in printed)
    # A second trip loses nothing more.
    assert load(dump(again)).metadata == again


def test_what_is_lost_is_named_by_its_path() -> None:
    loaded = load("name = 'x'; type = 'hvm'; vif = [ '' ]", uuid=UUID).metadata
    vif = msgspec.structs.replace(loaded.vifs[0], carrier=False)
    vm = msgspec.structs.replace(loaded.vm, memory_dynamic_min=1, xsdata={"vm-data/a": "new\nline"})
    comments = re.findall(r"# not expressible: (.*)", dump(msgspec.structs.replace(loaded, vm=vm, vifs=[vif])))
    assert comments == [
        'vm.xsdata.vm-data/a = "new\\nline"',
        "vm.memory_dynamic_min = 1",
        "vifs.0.carrier = false",
    ]


def test_a_comment_cannot_be_ended_from_within() -> None:
    loaded = load("name = 'x'; type = 'hvm'", uuid=UUID).metadata
    vm = msgspec.structs.replace(loaded.vm, xsdata={"a\nmemory = 9999": "b\nvcpus = 99"})
    assert load(dump(msgspec.structs.replace(loaded, vm=vm))).metadata == loaded


def test_the_printed_form() -> None:
    text = "name='x'; kernel='/k'; cmdline='it\\'s'; disk=['phy:/a,xvda,w'];" + f"uuid='{UUID}'"
    assert dump(load(text).metadata) == (
        f"name = 'x'\nuuid = '{UUID}'\ntype = 'pv'\nkernel = '/k'\ncmdline = 'it\\'s'\n"
        "memory = 64\nvcpus = 1\n"
        "on_poweroff = 'destroy'\non_reboot = 'restart'\non_crash = 'destroy'\non_soft_reset = 'soft-reset'\n"
        "disk = [ '/a,raw,xvda,rw' ]\nvif = [ ]\npci = [ ]\npci_msitranslate = 1\npci_power_mgmt = 0\n"
    )
