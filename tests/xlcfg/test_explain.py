# SPDX-License-Identifier: Apache-2.0
"""What a configuration means: the machine that it describes and the warnings that come with it."""

import pytest

from xenops.types.disk import Local
from xenops.types.record import UNSET
from xenops.types.vm import (
    MIB,
    Action,
    Direct,
    Hvm,
    Indirect,
    Pv,
    Pvh,
    PvInPvh,
    SchedulerPriority,
    Uefi,
    Video,
    Vm,
)
from xenops.xlcfg import ConfigError, load

UUID = "5d6f0d3a-9c1e-4f0b-8f4e-2f3c7a1b9e21"
PV = "name = 'x'; kernel = '/k'\n"
HVM = "name = 'x'; type = 'hvm'\n"


def vm(text: str) -> Vm:
    return load(text, uuid=UUID).metadata.vm


def hvm(text: str) -> Hvm:
    ty = vm(HVM + text).ty
    assert isinstance(ty, Hvm)
    return ty


def direct(text: str) -> Direct:
    ty = vm(text).ty
    assert isinstance(ty, Pv)
    assert isinstance(ty.boot, Direct)
    return ty.boot


def warnings(text: str) -> list[str]:
    return [str(warning) for warning in load(text, filename="vm.cfg", uuid=UUID).warnings]


def refusal(text: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        load(text, uuid=UUID)
    return caught.value


def test_the_uuid_of_the_text_wins_over_the_callers() -> None:
    assert vm(PV).id == UUID
    assert vm(PV + "uuid = '0b8a4f0e-6a3d-4f55-9b0a-5a3e1c9d7f42'").id == "0b8a4f0e-6a3d-4f55-9b0a-5a3e1c9d7f42"


def test_without_any_uuid_there_is_no_machine() -> None:
    with pytest.raises(ConfigError, match="no uuid"):
        load(PV)


def test_a_machine_without_a_name_is_called_by_its_uuid() -> None:
    assert vm("kernel = '/k'").name == UUID
    assert warnings("kernel = '/k'") == ["vm.cfg:1: name: no name is given; the machine is called by its uuid"]


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("", Hvm),
        ("kernel = '/k'", Pv),
        ("bootloader = 'pygrub'", Pv),
        ("builder = 'linux'; kernel = '/k'", Pv),
        ("builder = 'generic'; kernel = '/k'", Pv),
        ("builder = 'hvm'", Hvm),
        ("builder = 'hvmloader'", Hvm),
        ("builder = 'hvm'; kernel = '/usr/lib/xen/boot/hvmloader'", Hvm),
        ("type = 'hvm'", Hvm),
        ("type = 'hvm'; builder = 'hvmloader'", Hvm),
        ("type = 'pv'; kernel = '/k'", Pv),
        ("type = 'pvh'; kernel = '/k'", Pvh),
        ("type = 'pvh'; kernel = '/k'; pvshim = 0", Pvh),
        ("type = 'pvh'; kernel = '/k'; pvshim = 1", PvInPvh),
    ],
)
def test_the_kind_of_guest(text: str, kind: type) -> None:
    assert type(vm(f"name = 'x'\n{text}").ty) is kind


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("type = 'kvm'", 1, "hvm, pv or pvh"),
        ("type = 'pv'\nbuilder = 'hvm'\nkernel = '/k'", 2, "builder asks"),
        ("type = 'pv'", 1, "nothing to boot"),
        ("kernel = ''\nbuilder = 'linux'", 1, "nothing to boot"),
        ("memory = 0", 1, "must be from 1"),
        ("memory = 'lots'", 1, "not a number"),
        ("memory = 08", 1, "not a number"),
        ("memory = 1" + "0" * 5000, 1, "not a number"),
        ("memory = [ 1 ]", 1, "not a list"),
        ("memory = 1\nmemory += 2", 2, "does not add"),
        ("memory = 512\nmaxmem = 256", 2, "less than memory"),
        ("vcpus = 0", 1, "must be from 1"),
        ("vcpus = 5000", 1, "4096"),
        ("vcpus = 4\nmaxvcpus = 2", 2, "less than vcpus"),
        ("cpu_weight = 0", 1, "65535"),
        ("cap = '-1'", 1, "from 0"),
        ("disk = 'phy:/a,hda,w'", 1, "disk = [ ... ]"),
        ("disk = [ [ 'phy:/a,hda,w' ] ]", 1, "not a list"),
        ("on_crash = 'restrat'", 1, "did you mean restart"),
        ("bios = 'ovfm'", 1, "did you mean ovmf"),
        ("passthrough = 'disabled'\npci = [ '01:00.0' ]", 1, "cannot be disabled"),
        ("uuid = 'a b'", 1, "not a UUID"),
        ("cpus = '1-'", 1, "range of CPUs"),
        ("cpus = '3-1'", 1, "range of CPUs"),
        ("cpus = '0-99999'", 1, "range of CPUs"),
        ("cpus = '^1'", 1, "no CPU"),
        ("vendor_device = 'acme'", 1, "xenserver"),
        ("timer_mode = 4", 1, "from 0 to 3"),
        ("hdtype = 'ahic'", 1, "did you mean ahci"),
        ("timer_mode = 'no_delayed_for_missed_ticks'", 1, "did you mean no_delay_for_missed_ticks"),
    ],
)
def test_what_cannot_be(text: str, line: int, words: str) -> None:
    error = refusal(text)
    assert error.line == line
    assert words in error.reason


def test_memory() -> None:
    plain, balloon = vm(PV), vm(PV + "memory = 256; maxmem = 1024")
    assert (plain.memory_static_max, plain.memory_dynamic_max, plain.memory_dynamic_min) == (64 * MIB,) * 3
    assert balloon.memory_static_max == 1024 * MIB
    assert balloon.memory_dynamic_max == balloon.memory_dynamic_min == 256 * MIB
    assert vm(PV + "maxmem = 128").memory_dynamic_max == 128 * MIB


def test_vcpus() -> None:
    assert (vm(PV).vcpus, vm(PV).vcpu_max) == (1, 1)
    assert (vm(PV + "vcpus = 2").vcpus, vm(PV + "vcpus = 2").vcpu_max) == (2, 2)
    assert (vm(PV + "vcpus = 2; maxvcpus = 8").vcpus, vm(PV + "vcpus = 2; maxvcpus = 8").vcpu_max) == (2, 8)


@pytest.mark.parametrize(
    ("text", "affinity"),
    [
        ("", []),
        ("cpus = 'all'", []),
        ("cpus = 3", [[3]]),
        ("cpus = '0-3,5,^1'", [[0, 2, 3, 5]]),
        ("cpus = '2, 0-1'", [[0, 1, 2]]),
        ("vcpus = 2; cpus = [ '2', '3-8,^5' ]", [[2], [3, 4, 6, 7, 8]]),
        ("vcpus = 2; cpus = [ 'all', 'all' ]", []),
        ("cpus = []", []),
    ],
)
def test_affinity(text: str, affinity: list[list[int]]) -> None:
    assert vm(PV + text).scheduler_params.affinity == affinity


def test_entries_of_cpus_beyond_the_vcpus_are_passed_over() -> None:
    assert vm(PV + "cpus = [ 1, 2 ]").scheduler_params.affinity == [[1]]
    assert "only 1 vCPUs" in warnings(PV + "cpus = [ 1, 2 ]")[0]
    assert "vCPUs from 1 on" in warnings(PV + "vcpus = 3; cpus = [ 1 ]")[0]


@pytest.mark.parametrize("cpus", ["'all,^7'", "'nodes:0'", "[ 'node:1,^2', '3' ]", "[ '3', 'all' ]"])
def test_what_depends_on_the_host_pins_nothing_and_says_so(cpus: str) -> None:
    text = f"{PV}vcpus = 2; cpus = {cpus}"
    assert vm(text).scheduler_params.affinity == []
    assert any("pins nothing" in line or "nothing is pinned" in line for line in warnings(text))


def test_weight_and_cap() -> None:
    assert vm(PV).scheduler_params.priority is UNSET
    assert vm(PV + "cpu_weight = 512").scheduler_params.priority == SchedulerPriority(weight=512, cap=0)
    assert vm(PV + "cap = 50").scheduler_params.priority == SchedulerPriority(weight=256, cap=50)


def test_events() -> None:
    usual = vm(PV)
    assert (usual.on_shutdown, usual.on_reboot) == ([Action.SHUTDOWN], [Action.START])
    assert (usual.on_crash, usual.on_softreboot) == ([Action.SHUTDOWN], [Action.SOFTREBOOT])
    other = vm(PV + "on_poweroff='preserve'; on_reboot='destroy'; on_crash='coredump-restart'; on_soft_reset='restart'")
    assert (other.on_shutdown, other.on_reboot) == ([Action.PAUSE], [Action.SHUTDOWN])
    assert (other.on_crash, other.on_softreboot) == ([Action.COREDUMP, Action.START], [Action.START])
    assert vm(PV + "on_reboot = 'rename-restart'").on_reboot == [Action.START]
    assert "another name" in warnings(PV + "on_reboot = 'rename-restart'")[0]


@pytest.mark.parametrize(
    ("text", "cmdline"),
    [
        ("", ""),
        ("cmdline = 'quiet'", "quiet"),
        ("root = '/dev/xvda1 ro'", "root=/dev/xvda1 ro"),
        ("root = 'UUID=1-2'; extra = '3'", "root=UUID=1-2 3"),
        ("extra = 'root=/dev/xvda1'", "root=/dev/xvda1"),
        ("root = 'root=/dev/xvda ro'", "root=/dev/xvda ro"),
        ("cmdline = 'quiet'; root = '/a'; extra = 'b'", "quiet"),
    ],
)
def test_the_command_line(text: str, cmdline: str) -> None:
    assert direct(PV + text).cmdline == cmdline


def test_a_boot_loader_looks_at_the_disks_in_their_order() -> None:
    text = "name = 'x'; bootloader = 'pygrub'; extra = 'quiet'; disk = [ '/a,,xvda', ',hdc:cdrom,r', '/b,,xvdb' ]"
    ty = vm(text).ty
    assert isinstance(ty, Pv)
    assert ty.boot == Indirect(bootloader="pygrub", extra_args="quiet", devices=[Local(path="/a"), Local(path="/b")])


@pytest.mark.parametrize(
    ("text", "arguments"),
    [
        ("bootloader_args = [ '--entry=0', 'two words' ]", "--entry=0 'two words'"),
        ("bootloader_args = '-q  --entry=0'", "-q --entry=0"),
        ("", ""),
    ],
)
def test_arguments_of_the_boot_loader(text: str, arguments: str) -> None:
    ty = vm(f"name = 'x'; bootloader = 'pygrub'; {text}").ty
    assert isinstance(ty, Pv)
    assert isinstance(ty.boot, Indirect)
    assert ty.boot.bootloader_args == arguments


def test_an_hvm_guest() -> None:
    usual = hvm("")
    assert (usual.boot_order, usual.vnc_ip, usual.video, usual.video_mib) == ("cd", "127.0.0.1", Video.CIRRUS, 4)
    assert hvm("boot = 'dc'").boot_order == "dc"
    assert hvm("boot = ''").boot_order == "cd"
    assert hvm("vnc = 0").vnc_ip is UNSET
    assert hvm("vnclisten = '0.0.0.0'").vnc_ip == "0.0.0.0"
    assert hvm("vnclisten = '0.0.0.0:3'").vnc_ip == "0.0.0.0"
    assert hvm("vnclisten = '::1'").vnc_ip == "::1"
    assert hvm("stdvga = 1").video is Video.STANDARD_VGA
    assert hvm("vga = 'stdvga'; videoram = 16").video_mib == 16
    assert hvm("bios = 'ovmf'").firmware == Uefi()
    assert hvm("serial = [ 'pty' ]").serial == "pty"
    assert hvm("serial = '/dev/ttyS0'").serial == "/dev/ttyS0"
    assert hvm("rtc_timeoffset = '-3600'").timeoffset == "-3600"
    assert hvm("vtpm = 'abc'").tpm == "abc"
    assert hvm("acpi = 0; hap = 0").acpi is False


def test_the_platform() -> None:
    flags = vm(
        HVM + "nx = 1; acpi = 0; viridian = 0; timer_mode = 'one_missed_tick_pending'; nomigrate = 1"
    ).platformdata
    assert flags == {
        "nx": "true",
        "acpi": "false",
        "apic": "true",
        "pae": "true",
        "viridian": "false",
        "timer_mode": "3",
        "nomigrate": "true",
    }
    assert vm(HVM + "vnclisten = '0.0.0.0:3'").platformdata["vncdisplay"] == "3"
    assert "vncdisplay" not in vm(HVM + "vnclisten = '::1'").platformdata
    assert vm(PV + "max_grant_frames = 128").platformdata["max_grant_frames"] == "128"


def test_pci_devices_ask_for_passthrough() -> None:
    assert hvm("pci = [ '01:00.0' ]").pci_passthrough
    assert hvm("passthrough = 'enabled'").pci_passthrough
    assert not hvm("").pci_passthrough
    assert (vm(HVM).pci_msitranslate, vm(HVM).pci_power_mgmt) == (True, False)
    assert not vm(HVM + "pci_msitranslate = 0").pci_msitranslate
    assert vm(HVM + "pci_power_mgmt = 1").pci_power_mgmt


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        ("spice = 1", "spice: not supported yet; it has no effect"),
        ("vncviewer = 1", "vncviewer: deprecated, it has no effect; open the console with a command instead"),
        ("dhcp = 'on'", "dhcp: only xm knew this key; it has no effect"),
        ("memroy = 1", "memroy: there is no such key; it has no effect; did you mean memory?"),
        ("zzzzzzzz = 1", "zzzzzzzz: there is no such key; it has no effect"),
        ("cmdline = 'x'", "cmdline: it has no effect in this hvm guest"),
        ("kernel = '/vmlinuz'", "kernel: an hvm guest cannot boot a kernel directly yet; it boots from its disks"),
        ("firmware = '/fw.bin'", "firmware: firmware of your own is not supported yet; the guest gets a BIOS"),
        ("builder = 'hmv'", "builder: 'hmv' is taken to mean hvm; did you mean hvm?"),
        ("vga = 'qxl'", "vga: 'qxl' is not supported yet; the guest gets a cirrus card"),
        ("viridian = [ 'all' ]", "viridian: single enlightenments cannot be chosen yet; write 0 or 1"),
        ("uuid = 'vm7'", "uuid: this is not a UUID; xl would refuse it"),
        ("boot = 'c'\nboot = 'd'", "boot: given again; this one counts, not the one in line 2"),
    ],
)
def test_what_has_no_effect_is_said_by_key_and_line(text: str, warning: str) -> None:
    line = 2 + text.count("\n")
    assert warnings(HVM + text) == [f"vm.cfg:{line}: {warning}"]


@pytest.mark.parametrize("order", ["q", "hd=1", "cc", "acdn", "c,menu=on"])
def test_a_boot_order_is_one_that_a_pc_has(order: str) -> None:
    with pytest.raises(ConfigError, match="boot is up to three of"):
        load(HVM + f"boot = '{order}'", uuid=UUID)


def test_warnings_come_in_the_order_of_the_text() -> None:
    found = load(HVM + "spice = 1\nmemroy = 1\nsdl = 1", uuid=UUID).warnings
    assert [(warning.line, warning.key) for warning in found] == [(2, "spice"), (3, "memroy"), (4, "sdl")]
