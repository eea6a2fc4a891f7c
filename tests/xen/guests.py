# SPDX-License-Identifier: Apache-2.0
"""The small guests that the rig's dom0 holds: where their files lie, what they say when they are up, what they obey.

Nothing here does anything: the rig reads it to make the files, the tests inside dom0 read it to use them.
"""

from pathlib import Path

FOLDER = Path("/rig/guests")

# GRUB as a guest: an ELF of 0.3 MB, up in 0.3 s with 32 MiB. On its console: echo, sleep, halt, reboot, ls, cat. It takes
# no notice of a shutdown request, and cannot suspend.
GRUB_PV = FOLDER / "grub-pv"
GRUB_PVH = FOLDER / "grub-pvh"
GRUB_UP = "RIG-GRUB-UP"
GRUB_PROMPT = "grub>"
GRUB_MEMORY_MIB = 32

# Debian's kernel and a busybox initramfs. On its console every line is a shell command; the answer ends with LINUX_DONE
# and the status. It acknowledges shutdown requests; with `rig.deaf` on its command line it acknowledges and stays.
LINUX_ELF = FOLDER / "vmlinux"
LINUX_BZIMAGE = FOLDER / "vmlinuz"
LINUX_INITRAMFS = FOLDER / "initramfs"
LINUX_CMDLINE = "console=hvc0 quiet loglevel=1 mitigations=off"
LINUX_UP = "RIG-LINUX-UP"
LINUX_DONE = "RIG-DONE"
LINUX_DEAF = "rig.deaf"
LINUX_MEMORY_MIB = 128
LINUX_PVH_MEMORY_MIB = 192

# A raw disk whose boot sector says HVM_UP on the first serial port and the screen, then obeys single letters that come
# in there: p powers off, r resets. It powers off when its power button is pressed, too.
HVM_DISK = FOLDER / "hvm-boot-sector.img"
HVM_UP = "RIG-HVM-UP"
HVM_POWEROFF, HVM_RESET = b"p", b"r"
HVM_MEMORY_MIB = 64

# A PC's raw disk (GRUB, one partition) that boots the same Linux as an HVM guest, with front drivers, and drivers for an
# emulated CD drive (/dev/sr0). It is read four times sooner from an AHCI controller: hdtype=ahci.
HVM_LINUX_DISK = FOLDER / "hvm-linux.img"
HVM_LINUX_MEMORY_MIB = 192

# A CD (El Torito) with another boot sector, which says HVM_CD_UP and obeys the same letters.
HVM_CD = FOLDER / "hvm-boot.iso"
HVM_CD_UP = "RIG-CD-UP"

# A raw ext4 disk with /boot/grub/grub.cfg and the Linux above: two entries, each says its name after LINUX_UP.
PYGRUB_DISK = FOLDER / "pygrub.img"
PYGRUB_ENTRIES = ("first", "second")
PYGRUB_DEFAULT = "first"

BRIDGE = "xenbr0"
BRIDGE_ADDRESS = "172.30.0.1/24"
