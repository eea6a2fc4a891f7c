# SPDX-License-Identifier: Apache-2.0
"""A small Linux that serves others a disk and a network: blkback, netback, a bridge, and what answers as `xl devd` would.

It is the rig's own guest with more modules and two programs of dom0's; it is made when a test asks for it. Its disk is a
ramdisk, its bridge has no way out but an address of its own.
"""

import subprocess
from pathlib import Path

from tests.xen import guests
from tests.xen.acceptance.console import Console
from tests.xen.rig import guest_files, kernel

MODULES = ("xen-blkback", "xen-netback", "bridge", "brd")
PROGRAMS = ("xenstore-read", "xenstore-write", "xenstore-watch")
DISK, OTHER_DISK = "/dev/ram0", "/dev/ram1"
BRIDGE, ADDRESS = "inside", "10.99.0.1"
MEMORY_MIB = 192
# What `xl devd` does in a driver domain, and what the block and vif-bridge scripts do for it: it hears of back ends, looks
# for what they need, and says `connected` or what is wrong.
_HOTPLUG = """#!/bin/busybox sh
serve() {
  case $1 in
    backend/vbd/*)
      path=$(xenstore-read $1/params)
      if test -b "$path"; then
        xenstore-write $1/physical-device $(stat -c %t:%T "$path") $1/hotplug-status connected
      else
        xenstore-write $1/hotplug-error "$path is no block device"
      fi ;;
    backend/vif/*)
      device=vif$(echo ${1#backend/vif/} | tr / .)
      if test -e /sys/class/net/$device; then
        brctl addif $(xenstore-read $1/bridge) $device && ip link set $device up &&
          xenstore-write $1/hotplug-status connected || xenstore-write $1/hotplug-error "no such bridge"
      fi ;;
  esac
}
xenstore-watch backend | while read -r event; do
  test "${event##*/}" = state || continue
  folder=${event%/state}
  test "$(xenstore-read $event 2>/dev/null)" = 2 || continue
  test "$(xenstore-read $folder/hotplug-status 2>/dev/null)" = connected || serve $folder
done
"""


def initramfs(folder: Path) -> Path:
    """The rig's Linux guest, and all that it lacks to be a driver domain."""
    root = Path("/")
    modules = guest_files.modules_of(root)
    order = kernel.load_order((modules / "modules.dep").read_text(), MODULES)
    entries: dict[str, bytes | Path | None] = {
        f"modules/50-{number:02}-{Path(path).name}": (modules / path).read_bytes() for number, path in enumerate(order)
    }
    entries["rig/hotplug"] = _HOTPLUG.encode()
    programs = [Path("/usr/bin", name) for name in PROGRAMS]
    for path in (*programs, *_libraries(programs[0])):
        entries |= {str(parent)[1:]: None for parent in reversed(path.parents[:-1])}
        entries[str(path)[1:]] = path.read_bytes()
    target = folder / "driver-domain.initramfs"
    target.write_bytes(guests.LINUX_INITRAMFS.read_bytes() + kernel.archive(entries))
    return target


def _libraries(program: Path) -> list[Path]:
    """What it loads, by the paths that it asks for."""
    said = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True, timeout=60).stdout
    return [Path(word) for word in said.split() if word.startswith("/")]


def begin(console: Console) -> None:
    """Make it serve."""
    console.run(f"brctl addbr {BRIDGE} && ip addr add {ADDRESS}/24 dev {BRIDGE} && ip link set {BRIDGE} up")
    console.run("/rig/hotplug >/tmp/hotplug.log 2>&1 &")
