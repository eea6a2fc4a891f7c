# SPDX-License-Identifier: Apache-2.0
"""Makes the small guests that the tests start, from what lies in dom0's root directory.

Each answers within seconds under emulation: GRUB as a guest, Debian's kernel with a busybox, a boot sector, a disk with
a GRUB menu. `tests/xen/guests.py` says what they are for.
"""

import subprocess
from pathlib import Path

from tests.xen import guests
from tests.xen.rig import kernel
from tests.xen.rig.places import DOM0

GRUB_MODULES = ("echo", "sleep", "halt", "reboot", "normal", "ls", "cat", "terminal")
GUEST_MODULES = ("xen-blkfront", "xen-netfront")


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
    modules = modules_of(root)
    order = kernel.load_order((modules / "modules.dep").read_text(), GUEST_MODULES)
    for number, path in enumerate(order):
        entries[f"modules/{number:02}-{Path(path).name}"] = (modules / path).read_bytes()
    return kernel.archive(entries)


def boot_sector(marker: str) -> bytes:
    """512 bytes for a PC: says the marker on the screen and the first serial port, then obeys p (off) and r (reset)."""
    start = bytes.fromhex("fb 31c0 8ed8 8ed0 bc007c fc")  # sti; ds = ss = 0; sp = 0x7c00; cld
    say = bytes.fromhex("ac 08c0 740f 50 b40e bb0700 cd10 58 baf803 ee ebec")  # teletype and 0x3f8, until a zero
    wait = bytes.fromhex(
        "f4 bafd03 ec a801 74f7"  # hlt until something has come in at 0x3f8
        "baf803 ec 3c70 740a 3c72 75eb"  # p: off; r: reset; else wait
        "b0fe e664 ebe5"  # the keyboard controller's reset line
        "b80020 ba04b0 ef ebdc"  # ACPI soft off: SLP_EN to PM1a_CNT
    )
    message = 0x7C00 + len(start) + 3 + len(say) + len(wait)
    code = start + b"\xbe" + message.to_bytes(2, "little") + say + wait + marker.encode() + b"\r\n\0"
    return code.ljust(510, b"\0") + b"\x55\xaa"


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


def ext4(target: Path, tree: Path, *, size_mib: int) -> None:
    """A raw ext4 image of a directory, without a loop mount."""
    options = ["-O", "^has_journal,^metadata_csum", "-E", "lazy_itable_init=1,root_owner=0:0"]
    target.touch()
    command = ["mke2fs", "-q", "-F", "-t", "ext4", *options, "-d", str(tree), "-L", "root", str(target), f"{size_mib}M"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, timeout=300)
