# SPDX-License-Identifier: Apache-2.0
"""Makes the small guests that the tests start, from what lies in dom0's root directory.

Each answers within seconds under emulation: GRUB as a guest, Debian's kernel with a busybox, a boot sector, a disk with
a GRUB menu. `tests/xen/guests.py` says what they are for.
"""

import gzip
import struct
import subprocess
from pathlib import Path

from tests.xen import guests
from tests.xen.rig import kernel
from tests.xen.rig.places import DOM0

GRUB_MODULES = ("echo", "sleep", "halt", "reboot", "normal", "ls", "cat", "terminal")
GUEST_MODULES = ("xen-blkfront", "xen-netfront")
HVM_MODULES = ("ata-piix", "sr-mod")
GRUB_PC_MODULES = ("biosdisk", "part_msdos", "ext2", "linux", "boot")
# Without these the kernel looks for AGP bridges and loses timers, for half a minute of emulation.
HVM_CMDLINE = "no_timer_check idle=halt pci=noearly"
_PARTITION_AT = 1 << 20
_CD_SECTOR = 2048


def make(root: Path) -> None:
    """All guests, in the root directory's /rig/guests."""
    folder = root / guests.FOLDER.relative_to("/")
    folder.mkdir(parents=True)
    bzimage = sorted((root / "boot").glob("vmlinuz-*"))[-1].read_bytes()
    initramfs = linux_initramfs(root)
    (folder / guests.LINUX_BZIMAGE.name).write_bytes(bzimage)
    (folder / guests.LINUX_ELF.name).write_bytes(kernel.elf(bzimage))
    (folder / guests.LINUX_INITRAMFS.name).write_bytes(initramfs)
    (folder / guests.HVM_DISK.name).write_bytes(boot_sector(guests.HVM_UP).ljust(1 << 20, b"\0"))
    _grub(root, "x86_64-xen", guests.GRUB_PV)
    _grub(root, "i386-xen_pvh", guests.GRUB_PVH)
    _pygrub_disk(folder / guests.PYGRUB_DISK.name, bzimage, initramfs)
    (folder / guests.HVM_CD.name).write_bytes(boot_cd(boot_sector(guests.HVM_CD_UP)))
    packed = gzip.compress(initramfs, mtime=0) + gzip.compress(_hvm_modules(root), mtime=0)
    _pc_disk(root, folder / guests.HVM_LINUX_DISK.name, bzimage, packed)
    documentation = Path(guests.__file__).read_text()
    (folder / "README").write_text(documentation.partition("FOLDER =")[2].partition("\n\n")[2])


def modules_of(root: Path) -> Path:
    return sorted((root / "lib" / "modules").iterdir())[-1]


def linux_initramfs(root: Path) -> bytes:
    entries: dict[str, bytes | Path | None] = {name: None for name in ("bin", "dev", "proc", "sys", "modules", "rig")}
    entries["bin/busybox"] = (root / "bin" / "busybox").read_bytes()
    entries["bin/sh"] = Path("busybox")
    entries["init"] = (DOM0 / "guest-init").read_bytes()
    entries["rig/poweroff"] = (DOM0 / "guest-poweroff").read_bytes()
    entries["rig/reboot"] = (DOM0 / "guest-reboot").read_bytes()
    return kernel.archive(entries | _modules(root, "modules", GUEST_MODULES))


def _hvm_modules(root: Path) -> bytes:
    """An archive to be unpacked after the other."""
    return kernel.archive({"modules-hvm": None, **_modules(root, "modules-hvm", HVM_MODULES)})


def _modules(root: Path, folder: str, names: tuple[str, ...]) -> dict[str, bytes | Path | None]:
    modules = modules_of(root)
    order = kernel.load_order((modules / "modules.dep").read_text(), names)
    return {
        f"{folder}/{number:02}-{Path(path).name}": (modules / path).read_bytes() for number, path in enumerate(order)
    }


def boot_sector(marker: str) -> bytes:
    """512 bytes for a PC: says the marker on the screen and the first serial port, then obeys p (off), r (reset) and
    the power button (off).
    """
    start = bytes.fromhex("fb 31c0 8ed8 8ed0 bc007c fc")  # sti; ds = ss = 0; sp = 0x7c00; cld
    say = bytes.fromhex("ac 08c0 740f 50 b40e bb0700 cd10 58 baf803 ee ebec")  # teletype and 0x3f8, until a zero
    wait = bytes.fromhex(
        "f4 ba00b0 ed f6c401 751a"  # hlt; PWRBTN_STS in PM1a_STS: off
        "bafd03 ec a801 74ee"  # until something has come in at 0x3f8
        "baf803 ec 3c70 740a 3c72 75e2"  # p: off; r: reset; else wait
        "b0fe e664 ebdc"  # the keyboard controller's reset line
        "b80020 ba04b0 ef ebd3"  # ACPI soft off: SLP_EN to PM1a_CNT
    )
    message = 0x7C00 + len(start) + 3 + len(say) + len(wait)
    code = start + b"\xbe" + message.to_bytes(2, "little") + say + wait + marker.encode() + b"\r\n\0"
    return code.ljust(510, b"\0") + b"\x55\xaa"


def boot_cd(sector: bytes) -> bytes:
    """A CD that is nothing but bootable: El Torito's record and catalogue (no emulation), and the sector."""
    volume, record, end, catalogue, program = 16, 17, 18, 19, 20
    validation = struct.pack("<BBH24sHBB", 1, 0, 0, b"", 0, 0x55, 0xAA)
    total = sum(struct.unpack("<16H", validation)) & 0xFFFF
    validation = validation[:28] + struct.pack("<H", -total & 0xFFFF) + validation[30:]
    image = bytearray((program + 16) * _CD_SECTOR)
    for number, content in (
        (volume, b"\1CD001\1".ljust(40) + b"RIG".ljust(32)),
        (record, b"\0CD001\1EL TORITO SPECIFICATION".ljust(0x47, b"\0") + struct.pack("<I", catalogue)),
        (end, b"\xffCD001\1"),
        (catalogue, validation + struct.pack("<BBHBBHI", 0x88, 0, 0, 0, 0, _CD_SECTOR // 512, program)),
        (program, sector),
    ):
        image[number * _CD_SECTOR : number * _CD_SECTOR + len(content)] = content
    return bytes(image)


def _grub(root: Path, target: str, image: Path) -> None:
    config = root / "rig" / "grub-guest.cfg"
    lines = (DOM0 / "grub-guest.cfg").read_text().splitlines()
    config.write_text("".join(f"{line}\n" for line in lines if not line.startswith("#")))  # it knows no comments
    command = ["chroot", str(root), "grub-mkimage", "-O", target, "-p", "/", "-c", "/rig/grub-guest.cfg"]
    subprocess.run([*command, "-o", str(image), *GRUB_MODULES], check=True, timeout=120)
    config.unlink()


def _pygrub_disk(target: Path, bzimage: bytes, initramfs: bytes) -> None:
    tree = target.with_suffix(".tree")
    (tree / "boot" / "grub").mkdir(parents=True)
    (tree / "boot" / "vmlinuz").write_bytes(bzimage)
    (tree / "boot" / "initrd").write_bytes(initramfs)
    menu = [f"set default={guests.PYGRUB_ENTRIES.index(guests.PYGRUB_DEFAULT)}", "set timeout=1"]
    for entry in guests.PYGRUB_ENTRIES:
        linux = f"linux /boot/vmlinuz root=/dev/xvda ro {guests.LINUX_CMDLINE} rig.entry={entry}"
        menu.append(f"menuentry '{entry}' {{\n\t{linux}\n\tinitrd /boot/initrd\n}}")
    (tree / "boot" / "grub" / "grub.cfg").write_text("\n".join(menu) + "\n")
    ext4(target, tree, size_mib=24)
    subprocess.run(["rm", "-rf", str(tree)], check=True, timeout=60)


def _pc_disk(root: Path, target: Path, bzimage: bytes, initramfs: bytes) -> None:
    """A PC's disk: GRUB in front of the first partition, kernel and initramfs in it."""
    work = target.with_suffix(".tree")
    tree = work / "partition"
    (tree / "boot").mkdir(parents=True)
    (tree / "boot" / "vmlinuz").write_bytes(bzimage)
    (tree / "boot" / "initrd").write_bytes(initramfs)
    partition = work / "partition.img"
    ext4(partition, tree, size_mib=16)
    config = (
        f"set root=(hd0,msdos1)\nlinux /boot/vmlinuz {guests.LINUX_CMDLINE} {HVM_CMDLINE}\ninitrd /boot/initrd\nboot\n"
    )
    (work / "grub.cfg").write_text(config)
    inside = Path("/") / work.relative_to(root)
    command = ["chroot", str(root), "grub-mkimage", "-O", "i386-pc", "-p", "/", "-c", str(inside / "grub.cfg")]
    subprocess.run([*command, "-o", str(inside / "core.img"), *GRUB_PC_MODULES], check=True, timeout=120)
    front = (root / "usr/lib/grub/i386-pc/boot.img").read_bytes()[:440].ljust(446, b"\0")
    sectors = partition.stat().st_size >> 9
    entry = struct.pack("<B3sB3sII", 0x80, b"\xfe\xff\xff", 0x83, b"\xfe\xff\xff", _PARTITION_AT >> 9, sectors)
    front += entry.ljust(64, b"\0") + b"\x55\xaa" + (work / "core.img").read_bytes()
    if len(front) > _PARTITION_AT:
        raise ValueError("GRUB does not fit in front of the partition")
    target.write_bytes(front.ljust(_PARTITION_AT, b"\0") + partition.read_bytes())
    subprocess.run(["rm", "-rf", str(work)], check=True, timeout=60)


def ext4(target: Path, tree: Path, *, size_mib: int) -> None:
    """A raw ext4 image of a directory, without a loop mount."""
    options = ["-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0"]
    target.touch()
    command = ["mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", str(tree), "-L", "root", str(target), f"{size_mib}M"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
