# SPDX-License-Identifier: Apache-2.0
"""The words that QEMU is started with: for an HVM guest, whose devices it emulates, or only as a back end of PV devices.

They are libxl 4.17's (libxl_dm.c), with these differences:
- the screen is a Unix socket; a TCP port is opened beside it when an address other than loopback is asked for;
- the first serial port is a terminal unless the record says otherwise, so that `xl console` has something to show;
- a SCSI disk has its controller, without which this QEMU refuses it;
- system calls that it has no need of are refused to it, where it was built with a sandbox;
- it goes into the background by itself, and so outlives us.

Nothing of a record becomes an option of its own: a comma within a value is doubled, as QEMU reads it.
"""

import ipaddress
import re
from collections.abc import Iterator
from typing import Any

from xenops.errors import BadRequest
from xenops.types.device_number import Bus, DeviceNumber
from xenops.types.disk import Local, RemoteDisk
from xenops.types.metadata import Metadata
from xenops.types.record import UNSET, Maybe
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vif import Vif
from xenops.types.vm import MIB, Hvm, Video, Vm
from xenopsd.backends.xen.devicemodel.places import Places
from xenopsd.backends.xen.platform import flag

SERIAL_LABEL = "serial0"  # QEMU's own name for what the first -serial makes
NIC_LIMIT = 8
_IDE_DISKS, _AHCI_DISKS, _SCSI_DISKS = 4, 6, 7
_FORMATS = ("raw", "qcow2", "qcow", "vpc", "vmdk", "vdi", "qed")
_MODEL = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_KEYMAP = re.compile(r"[a-z]{2}(-[a-z]{2})?")
_BOOT_ORDER = re.compile(r"(?:([acdn])(?!.*\1)){1,3}")  # qemu, hw/i386/pc.c: PC_MAX_BOOT_DEVICES, and none twice
_SERIAL = re.compile(r"pty|none|null|(/dev/|file:/|unix:/)[^,]*")
# What going into the background needs (a fork, a session of its own) has to stay allowed; privileges cannot be gained.
SANDBOX = "on,obsolete=deny,elevateprivileges=allow,spawn=allow,resourcecontrol=deny"
_LAST_DISPLAY = 0xFFFF - 5900  # what a port can be


def emulator(machine: Metadata, places: Places, incoming: bool, sandbox: bool) -> list[str]:
    """For an HVM guest. Raises `BadRequest` for what QEMU cannot emulate."""
    vm = machine.vm
    if not isinstance(vm.ty, Hvm):
        raise BadRequest("vm.ty", "only an HVM guest has emulated devices")
    return [
        *_own(vm.name, places, sandbox),
        "-vnc",
        f"unix:{_quoted(str(places.screen))}",
        *_more_screens(vm, vm.ty.vnc_ip),
        *_display(vm.ty),
        *_serial(vm.ty),
        "-boot",
        f"order={_boot_order(vm.ty)}",
        *(["-usb", "-usbdevice", "tablet"] if flag(vm, "usb_tablet", default=flag(vm, "usb", default=True)) else []),
        *([] if vm.ty.acpi else ["-no-acpi"]),
        "-smp",
        f"{vm.vcpus},maxcpus={vm.vcpu_max}",
        *_nics(machine, places.domid),
        *(["-device", "xen-pvdevice,device-id=0xc000"] if vm.has_vendor_device else []),
        *_passed_through(machine),
        "-machine",
        "xenfv,suppress-vmdesc=on" if flag(vm, "xen_platform_pci", default=True) else "pc,accel=xen,suppress-vmdesc=on",
        "-m",
        str(vm.memory_static_max // MIB),
        *(word for vbd in machine.vbds for word in _ide(vm, vbd)),
        *_on_controllers(machine),
        *(["-incoming", f"unix:{places.incoming}"] if incoming else []),
    ]


def back_end(name: str, places: Places, sandbox: bool, *, framebuffer: bool = False) -> list[str]:
    """For a PV or PVH guest: only the back ends of its qdisks, and of its framebuffer when it has one."""
    screen = ["-vnc", f"unix:{_quoted(str(places.screen))}"] if framebuffer else ["-vnc", "none"]
    words = _own(name, places, sandbox)
    return [*words, "-xen-attach", *screen, "-display", "none", "-serial", "none", "-M", "xenpv", "-m", "1"]


def drive_id(devid: int) -> str:
    """The name of an emulated CD drive in the monitor, as libxl has it."""
    return f"ide-{devid}"


def devid_of(untrusted_drive: object) -> int | None:
    """Which drive an event speaks of."""
    match = re.fullmatch(r"ide-([0-9]{1,9})", untrusted_drive) if isinstance(untrusted_drive, str) else None
    return int(match[1]) if match else None


def tap(domid: int, vif: Vif) -> str:
    """The control domain's end of an emulated interface."""
    return f"vif{domid}.{vif.position}-emu"


def emulated_nics(machine: Metadata) -> list[Vif]:
    """The interfaces that have an emulated twin; a model of `netfront` means none."""
    return [vif for vif in machine.vifs if vif.model != "netfront"][:NIC_LIMIT]


def pci_id(address: str) -> str:
    """The name of a passed-through function in the monitor."""
    return f"pci-pt-{address.replace(':', '_')}"


def missing_vcpus(untrusted_slots: object, n: int) -> list[dict[str, Any]]:
    """The devices to be added so that the guest has its first n vCPUs; the slots are QEMU's answer to query-hotpluggable-cpus."""
    slots = [slot for slot in untrusted_slots if isinstance(slot, dict)] if isinstance(untrusted_slots, list) else []
    slots.sort(key=lambda slot: [slot["props"].get(f"{part}-id", 0) for part in ("socket", "core", "thread")])
    return [
        {"driver": slot["type"], "id": f"cpu-{number}", **slot["props"]}
        for number, slot in enumerate(slots[:n])
        if "qom-path" not in slot
    ]


def _own(name: str, places: Places, sandbox: bool) -> list[str]:
    """What every QEMU of ours is told of itself. The first two words are how its process is recognised."""
    return [
        "-xen-domid",
        str(places.domid),
        "-no-shutdown",
        "-chardev",
        f"socket,id=xenopsd,path={_quoted(str(places.monitor))},server=on,wait=off",
        "-mon",
        "chardev=xenopsd,mode=control",
        "-nodefaults",
        "-no-user-config",
        "-name",
        f"guest={_quoted(name)}",
        "-pidfile",
        str(places.pid),
        "-daemonize",
        # Once it is in the background its complaints go where its log goes, if it has any; this kind is never written.
        "-D",
        str(places.words),
        "-d",
        "page",
        *(["-sandbox", SANDBOX] if sandbox else []),
    ]


def _more_screens(vm: Vm, ip: Maybe[str]) -> list[str]:
    if not ip:
        return []
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        raise BadRequest("vm.ty.vnc_ip", f"{ip!r:.60} is no IP address") from None
    if address.is_loopback:
        return []  # vncproxy shows the socket there, to those whom it lets in
    host = f"[{address}]" if address.version == 6 else str(address)
    display = vm.platformdata.get("vncdisplay", "0")
    if not re.fullmatch(r"[0-9]{1,5}", display) or int(display) > _LAST_DISPLAY:
        raise BadRequest("platformdata.vncdisplay", f"{display!r:.20} is no display; they go up to {_LAST_DISPLAY}")
    to = [f"to={max(int(display), 99)}"] if flag(vm, "vncunused", default=True) else []
    return ["-vnc", ",".join((f"{host}:{int(display)}", *to, "id=tcp"))]


def _display(hvm: Hvm) -> Iterator[str]:
    yield from ("-display", "none")
    if hvm.keymap:
        if not _KEYMAP.fullmatch(hvm.keymap):
            raise BadRequest("vm.ty.keymap", f"{hvm.keymap!r:.40} is no keymap; write for example en-us or de")
        yield from ("-k", hvm.keymap)
    match hvm.video:
        case Video.CIRRUS:
            yield from ("-device", "cirrus-vga")
        case Video.STANDARD_VGA:
            size_mib = 1 << max(0, hvm.video_mib.bit_length() - 1)  # a power of two
            yield from ("-device", f"VGA,vgamem_mb={max(1, min(size_mib, 256))}")
        case other:
            raise BadRequest("vm.ty.video", f"{other.value} is not emulated here; Cirrus and Standard_VGA are")


def _serial(hvm: Hvm) -> list[str]:
    where = hvm.serial or "pty"
    if not _SERIAL.fullmatch(where):
        raise BadRequest("vm.ty.serial", f"{where!r:.60}: known are pty, none, null, a device, file:/… and unix:/…")
    return ["-serial", where]


def _boot_order(hvm: Hvm) -> str:
    """Of `a` floppy, `c` disk, `d` CD, `n` network."""
    order = hvm.boot_order or "cda"
    if not _BOOT_ORDER.fullmatch(order):
        raise BadRequest("vm.ty.boot_order", f"{order!r:.20}: write up to three of a, c, d and n, each once")
    return order


def _nics(machine: Metadata, domid: int) -> Iterator[str]:
    nics = emulated_nics(machine)
    if not nics:
        yield from ("-net", "none")
    for vif in nics:
        model, number = vif.model or "rtl8139", vif.position
        if not _MODEL.fullmatch(model):
            raise BadRequest("vif.model", f"{model!r:.40} is no model's name; e1000 and rtl8139 are")
        if not _MAC.fullmatch(vif.mac):
            raise BadRequest("vif.mac", f"{vif.mac!r:.40} is no MAC address; write 00:16:3e:xx:xx:xx")
        yield from ("-device", f"{model},id=nic{number},netdev=net{number},mac={vif.mac}")
        yield from ("-netdev", f"type=tap,id=net{number},ifname={tap(domid, vif)},script=no,downscript=no")


def _passed_through(machine: Metadata) -> Iterator[str]:
    for pci in machine.pcis:
        address = str(pci.address)
        yield from ("-device", f"xen-pci-passthrough,hostaddr={address},id={pci_id(address)}")


def _ide(vm: Vm, vbd: Vbd) -> Iterator[str]:
    """An IDE drive. Xen's own drives beyond the first four have no emulated twin, as a floppy has none."""
    number, medium = _number(vbd), _medium(vbd)
    if number is None or number.bus not in (Bus.IDE, Bus.XEN) or number.disk >= _IDE_DISKS:
        return
    if vbd.ty is VbdType.CDROM:
        yield from (
            "-drive",
            f"if=ide,index={number.disk},readonly=on,media=cdrom,id={drive_id(number.to_key())}{medium}",
        )
    elif medium and vbd.ty is VbdType.DISK and not _is_ahci(vm, number):
        _check_writable(vbd)
        yield from ("-drive", f"if=ide,index={number.disk},media=disk,cache=writeback{medium}")


def _on_controllers(machine: Metadata) -> Iterator[str]:
    """SCSI disks, and AHCI disks when the platform says so."""
    controllers = {"ahci0": "ahci", "scsi0": "lsi53c895a"}
    for vbd in machine.vbds:
        number, medium = _number(vbd), _medium(vbd)
        if number is None or not medium or vbd.ty is not VbdType.DISK:
            continue
        if number.bus is Bus.SCSI and number.disk < _SCSI_DISKS:
            bus, device = "scsi0", f"scsi-hd,bus=scsi0.0,scsi-id={number.disk}"
        elif number.bus in (Bus.IDE, Bus.XEN) and _is_ahci(machine.vm, number):
            _check_writable(vbd)
            bus, device = "ahci0", f"ide-hd,bus=ahci0.{number.disk},unit=0"
        else:
            continue
        if bus in controllers:
            yield from ("-device", f"{controllers.pop(bus)},id={bus}")
        flag = ",readonly=on" if vbd.mode is Mode.READ_ONLY else ""
        yield from ("-drive", f"if=none,id={bus}-{number.disk},cache=writeback{flag}{medium}")
        yield from ("-device", f"{device},drive={bus}-{number.disk}")


def _check_writable(vbd: Vbd) -> None:
    if vbd.mode is Mode.READ_ONLY:
        raise BadRequest(
            "vbd.mode", f"{vbd.id}: an IDE or AHCI disk cannot be read-only; make it a CD, or a disk from xvde on"
        )


def _is_ahci(vm: Vm, number: DeviceNumber) -> bool:
    return vm.platformdata.get("hdtype") == "ahci" and number.disk < _AHCI_DISKS


def _number(vbd: Vbd) -> DeviceNumber | None:
    """None for a drive that has no place among the emulated ones: none at all, or that of a partition."""
    try:
        number = DeviceNumber.parse(vbd.position, hvm=True) if vbd.position else None
        return None if number is None or number.partition else number
    except ValueError as error:
        raise BadRequest("vbd.position", str(error)) from None


def _medium(vbd: Vbd) -> str:
    """What is in it; nothing for an empty one, nor for a disk that is served by a domain which this QEMU cannot reach."""
    if vbd.backend is UNSET or isinstance(vbd.backend, RemoteDisk):
        return ""
    if not isinstance(vbd.backend, Local):
        raise BadRequest("vbd.backend", f"{vbd.backend.name}: give a Local disk, a path in the control domain")
    return f",file={_quoted(medium_path(vbd.backend.path))},format={image_format(vbd.backend.format)}"


def medium_path(path: str) -> str:
    """An absolute path is a file to QEMU; anything else might be a protocol. Raises `BadRequest`."""
    if not path.startswith("/"):
        raise BadRequest("vbd.backend.path", f"{path!r:.80}: write an absolute path")
    return path


def image_format(format: str) -> str:
    """QEMU's name of it; it is never guessed from a disk's bytes, which the guest writes. Raises `BadRequest`."""
    name = "vpc" if format == "vhd" else format
    if name not in _FORMATS:
        raise BadRequest("vbd.backend.format", f"{format!r:.20}: known are {', '.join(_FORMATS)}")
    return name


def _quoted(value: str) -> str:
    return value.replace(",", ",,")
