# SPDX-License-Identifier: Apache-2.0
"""What kind of guest a configuration describes, how it boots, and the flags of its virtual platform."""

import re
import shlex
from enum import Enum

from xenops.types.disk import Disk
from xenops.types.record import UNSET, Maybe
from xenops.types.vbd import Vbd
from xenops.types.vm import (
    Bios,
    Boot,
    BuilderInfo,
    Direct,
    Firmware,
    Hvm,
    Indirect,
    Pv,
    Pvh,
    PvInPvh,
    Uefi,
    Video,
)
from xenops.xlcfg.document import Document
from xenops.xlcfg.keys import nearest

# Nobody but this host should see a screen unless its owner says so.
LOOPBACK = "127.0.0.1"
BOOT_ORDER = "cd"
BOOT_ORDERS = re.compile(r"(?:([acdn])(?!.*\1)){1,3}")


class GuestKind(Enum):
    """The kinds of guests; the value is how `type` calls them."""

    HVM = "hvm"
    PV = "pv"
    PVH = "pvh"
    PV_IN_PVH = "pvh with pvshim"


_HVM = frozenset({GuestKind.HVM})
_SHIM = frozenset({GuestKind.PV_IN_PVH})
_ALL = frozenset(GuestKind)
_TIMER_MODES = (
    "delay_for_missed_ticks",
    "no_delay_for_missed_ticks",
    "no_missed_ticks_pending",
    "one_missed_tick_pending",
)
HD_TYPES = ("ide", "ahci")
VIDEO = {"cirrus": Video.CIRRUS, "stdvga": Video.STANDARD_VGA}
DISPLAYS = (1 << 16) - 5900  # as many as there are ports for
SECONDS = range(-(1 << 31), 1 << 31)
PLATFORM_DEFAULTS = {"nx": "false", "acpi": "true", "apic": "true", "pae": "true", "viridian": "true"}
# Key, its name among the platform's flags, the numbers it can be if it is no flag, and the guests for which it means something.
PLATFORM: tuple[tuple[str, str, range | None, frozenset[GuestKind]], ...] = (
    ("nx", "nx", None, _HVM),
    ("acpi", "acpi", None, _HVM),
    ("apic", "apic", None, _HVM),
    ("pae", "pae", None, _HVM),
    ("viridian", "viridian", None, _HVM),
    ("hpet", "hpet", None, _HVM),
    ("acpi_s3", "acpi_s3", None, _HVM),
    ("acpi_s4", "acpi_s4", None, _HVM),
    ("nestedhvm", "nested-virt", None, _HVM),
    ("usb", "usb", None, _HVM),
    ("vncdisplay", "vncdisplay", range(DISPLAYS), _HVM),
    ("vncunused", "vncunused", None, _HVM),
    ("timer_mode", "timer_mode", range(len(_TIMER_MODES)), _ALL - {GuestKind.PV}),
    ("hap", "hap", None, frozenset({GuestKind.PVH, GuestKind.PV_IN_PVH})),
    ("rtc_timeoffset", "timeoffset", SECONDS, _ALL - _HVM),
    ("localtime", "localtime", None, _ALL),
    ("vpmu", "vpmu", None, _ALL),
    ("msr_relaxed", "msr-relaxed", None, _ALL),
    ("nomigrate", "nomigrate", None, _ALL),
    ("max_grant_frames", "max_grant_frames", range(1 << 31), _ALL),
    ("max_maptrack_frames", "max_maptrack_frames", range(1 << 31), _ALL),
)


def guest_kind(doc: Document) -> GuestKind:
    """`type` decides, or the older `builder`; without either, a kernel or a boot loader makes a PV guest."""
    asked, builder = doc.text("type"), doc.text("builder")
    built = None
    if builder:
        built = GuestKind.PV if builder.value in ("linux", "generic") else GuestKind.HVM
        if builder.value not in ("linux", "generic", "hvm", "hvmloader"):
            hint = nearest(builder.value, ("linux", "generic", "hvm"))
            doc.warn("builder", f"{builder.value!r:.40} is taken to mean hvm{hint}", builder)
    if asked:
        if asked.value not in ("hvm", "pv", "pvh"):
            doc.fail(asked, f"type is hvm, pv or pvh, not {asked.value!r:.40}")
        kind = GuestKind(asked.value)
        if built and built is not kind:
            doc.fail(doc.place("builder"), f"builder asks for a {built.value} guest, and type for a {kind.value} guest")
    else:
        kind = built or (GuestKind.PV if "kernel" in doc or "bootloader" in doc else GuestKind.HVM)
    return GuestKind.PV_IN_PVH if kind is GuestKind.PVH and doc.boolean("pvshim") else kind


def builder_info(doc: Document, kind: GuestKind, disks: list[Vbd], *, pci: bool) -> BuilderInfo:
    """How the domain is built."""
    passthrough = _passthrough(doc, pci=pci)
    if kind is GuestKind.HVM:
        return _hvm(doc, pci_passthrough=passthrough)
    types: dict[GuestKind, type[Pv | Pvh | PvInPvh]]
    types = {GuestKind.PV: Pv, GuestKind.PVH: Pvh, GuestKind.PV_IN_PVH: PvInPvh}
    framebuffer = doc.boolean("vnc") or False
    if framebuffer and _listens(doc)[1]:
        doc.warn("vnclisten", f"the display has no effect in this {kind.value} guest")
    return types[kind](
        boot=_boot(doc, disks),
        framebuffer=framebuffer,
        framebuffer_ip=_listens(doc)[0] if framebuffer else UNSET,
        vncterm_ip=LOOPBACK,
        pci_passthrough=passthrough,
    )


def platform(doc: Document, kind: GuestKind) -> dict[str, str]:
    """The flags of the virtual platform, the usual ones always among them."""
    flags = dict(PLATFORM_DEFAULTS)
    for key, flag, numbers, kinds in PLATFORM:
        if kind not in kinds or key not in doc:
            continue
        if key == "viridian" and doc.is_list(key):
            doc.texts(key)
            doc.warn(key, "single enlightenments cannot be chosen yet; write 0 or 1")
        elif key == "timer_mode" and doc.string(key) in _TIMER_MODES:
            flags[flag] = str(_TIMER_MODES.index(doc.string(key)))
        elif key == "timer_mode" and (word := doc.text(key)) and not re.match(r"[0-9]", word.value):
            names = ", ".join(_TIMER_MODES)
            doc.fail(word, f"timer_mode is one of {names}, not {word.value!r:.40}{nearest(word.value, _TIMER_MODES)}")
        elif numbers:
            flags[flag] = str(doc.integer(key, numbers[0], numbers[-1]))
        else:
            flags[flag] = "true" if doc.boolean(key) else "false"
    if kind in _HVM and doc.boolean("vnc") is not False and (display := _listens(doc)[1]):
        flags["vncdisplay"] = display
    if kind in _HVM and (controller := doc.text("hdtype")):
        if controller.value not in HD_TYPES:
            doc.fail(
                controller, f"hdtype is ide or ahci, not {controller.value!r:.40}{nearest(controller.value, HD_TYPES)}"
            )
        flags["hdtype"] = controller.value
    if kind in _SHIM and (cmdline := doc.string("pvshim_cmdline")):
        flags["pvinpvh-xen-cmdline"] = cmdline
    return flags


def _listens(doc: Document) -> tuple[str, str]:
    """The address of a screen, and the display that may stand behind it."""
    listen = doc.text("vnclisten")
    address, colon, display = listen.value.partition(":") if listen else ("", "", "")
    if listen is None or not colon or not re.fullmatch(r"[0-9]{1,9}", display):
        return (doc.string("vnclisten") or LOOPBACK), ""
    if "vncdisplay" in doc:
        doc.fail(listen, "vnclisten names a display, and so does vncdisplay")
    if int(display) >= DISPLAYS:
        doc.fail(listen, f"a display is a number less than {DISPLAYS}, not {display}")
    return address or LOOPBACK, str(int(display))


def _passthrough(doc: Document, *, pci: bool) -> bool:
    text = doc.text("passthrough")
    modes = ("disabled", "enabled", "sync_pt", "share_pt")
    if text is None:
        return pci
    if text.value not in modes:
        doc.fail(text, f"passthrough is {', '.join(modes)}, not {text.value!r:.40}{nearest(text.value, modes)}")
    if text.value.endswith("_pt"):
        doc.warn("passthrough", f"{text.value} cannot be chosen yet; it means enabled", text)
    if text.value == "disabled" and pci:
        doc.fail(text, "passthrough cannot be disabled for a guest with PCI devices")
    return text.value != "disabled"


def _hvm(doc: Document, *, pci_passthrough: bool) -> Hvm:
    _hvm_kernel(doc)
    vnc = doc.boolean("vnc")
    offset = doc.integer("rtc_timeoffset", SECONDS[0], SECONDS[-1])
    hap, acpi = doc.boolean("hap"), doc.boolean("acpi")
    return Hvm(
        hap=hap is not False,
        acpi=acpi is not False,
        timeoffset="" if offset is None else str(offset),
        video_mib=doc.integer("videoram", 0, 4096) or 4,
        video=_video(doc),
        serial=_serial(doc),
        keymap=doc.string("keymap") or UNSET,
        vnc_ip=UNSET if vnc is False else _listens(doc)[0],
        boot_order=_boot_order(doc),
        firmware=_firmware(doc),
        tpm=_tpm(doc),
        pci_passthrough=pci_passthrough,
    )


def _boot_order(doc: Document) -> str:
    """Letters, as QEMU understands them on a PC."""
    order = doc.text("boot")
    if order is None or not order.value:
        return BOOT_ORDER
    if not BOOT_ORDERS.fullmatch(order.value):
        letters = "a (floppy), c (disk), d (CD) and n (network)"
        doc.fail(order, f"boot is up to three of {letters}, each once, not {order.value!r:.20}")
    return order.value


def _hvm_kernel(doc: Document) -> None:
    """Old configurations name hvmloader as the kernel; another kernel in an HVM guest is more than we can do."""
    kernel = doc.text("kernel")
    if kernel is None:
        return
    if kernel.value.rpartition("/")[2] == "hvmloader":
        doc.warn("kernel", "hvmloader is used anyway; this key has no effect", kernel)
    else:
        doc.warn("kernel", "an hvm guest cannot boot a kernel directly yet; it boots from its disks", kernel)


def _video(doc: Document) -> Video:
    vga = doc.text("vga")
    if vga is not None and vga.value not in VIDEO:
        doc.warn("vga", f"{vga.value!r:.40} is not supported yet; the guest gets a cirrus card", vga)
    standard = doc.boolean("stdvga")
    return VIDEO.get(vga.value, Video.CIRRUS) if vga else Video.STANDARD_VGA if standard else Video.CIRRUS


def _serial(doc: Document) -> Maybe[str]:
    if not doc.is_list("serial"):
        return doc.string("serial") or UNSET
    ports = doc.texts("serial")
    if len(ports) > 1:
        doc.warn("serial", "more than one serial port is not supported yet; only the first has effect", ports[1])
    return ports[0].value or UNSET if ports else UNSET


def _firmware(doc: Document) -> Firmware:
    names: dict[str, Firmware]
    names = {"bios": Bios(), "seabios": Bios(), "rombios": Bios(), "uefi": Uefi(), "ovmf": Uefi()}
    chosen: Firmware = Bios()
    for key in ("firmware", "bios"):
        text = doc.text(key)
        if text is None:
            continue
        if key == "firmware" and text.value.startswith("/"):
            doc.warn(key, "firmware of your own is not supported yet; the guest gets a BIOS", text)
            continue
        if text.value not in names:
            doc.fail(
                text, f"{key} is one of {', '.join(names)}, not {text.value!r:.40}{nearest(text.value, (*names,))}"
            )
        chosen = names[text.value]
    return chosen


def _tpm(doc: Document) -> Maybe[str]:
    if not doc.is_list("vtpm"):
        return doc.string("vtpm") or UNSET
    doc.warn("vtpm", "a list of virtual TPMs is not supported yet; it has no effect")
    return UNSET


def _boot(doc: Document, disks: list[Vbd]) -> Boot:
    """A boot loader wins over a kernel, as it does in xl."""
    bootloader, kernel = doc.string("bootloader"), doc.string("kernel")
    if bootloader:
        if kernel:
            doc.warn("kernel", "the boot loader chooses the kernel; this one has no effect")
        devices: list[Disk] = [disk.backend for disk in disks if isinstance(disk.backend, Disk)]
        return Indirect(
            bootloader=bootloader, bootloader_args=_arguments(doc), extra_args=_cmdline(doc), devices=devices
        )
    if not kernel:
        doc.fail(doc.place("type"), "this guest has nothing to boot; give it a kernel or a bootloader, or type = 'hvm'")
    return Direct(kernel=kernel, cmdline=_cmdline(doc), ramdisk=doc.string("ramdisk") or UNSET)


def _arguments(doc: Document) -> str:
    """The boot loader's arguments, quoted as a shell does where they need it."""
    if doc.is_list("bootloader_args"):
        return shlex.join(text.value for text in doc.texts("bootloader_args"))
    return shlex.join(doc.string("bootloader_args").split())


def _cmdline(doc: Document) -> str:
    """`cmdline` is all of it; else `root` (without its `root=`) and `extra`."""
    cmdline, root, extra = doc.text("cmdline"), doc.string("root"), doc.string("extra")
    if cmdline is not None:
        for key in ("root", "extra"):
            if key in doc:
                doc.warn(key, "cmdline is the whole command line; this has no effect")
        return cmdline.value
    if re.match(r"[a-z][a-z0-9_.]*=", root):
        doc.warn("root", "taken as a whole command line and not as the name of a device; write it as cmdline")
    elif root:
        root = f"root={root}"
    return " ".join(part for part in (root, extra) if part)
