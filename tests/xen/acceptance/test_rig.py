# SPDX-License-Identifier: Apache-2.0
"""The rig itself: a real Xen answers, its tools start each of the small guests, and nothing stays behind."""

import time
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import xl
from tests.xen.acceptance.console import attached

LINUX = {"kernel": guests.LINUX_ELF, "ramdisk": guests.LINUX_INITRAMFS, "extra": guests.LINUX_CMDLINE}


def test_this_is_dom0_on_a_real_xen() -> None:
    facts = dict(line.split(":", 1) for line in xl.run("info").splitlines() if ":" in line)
    facts = {key.strip(): value.strip() for key, value in facts.items()}
    assert facts["xen_version"].startswith("4.17.")
    assert {"pv", "hvm"} <= set(facts["virt_caps"].split())
    assert int(facts["free_memory"]) > 2 * guests.LINUX_PVH_MEMORY_MIB
    assert xl.store("read", "/local/domain/0/name") == "Domain-0"


def test_the_clock_is_right() -> None:
    newest = max(path.stat().st_mtime for path in Path(guests.__file__).parent.rglob("*.py"))
    assert time.time() > newest - 60


@pytest.mark.parametrize(("kind", "kernel"), [("pv", guests.GRUB_PV), ("pvh", guests.GRUB_PVH)])
def test_grub_comes_up_as_a_guest_and_halts(kind: str, kernel: Path, tmp_path: Path) -> None:
    path = xl.config(tmp_path, "grub", type=kind, kernel=kernel, memory=guests.GRUB_MEMORY_MIB)
    with xl.domain(path) as domid, attached(domid) as console:
        console.wait(guests.GRUB_UP)
        console.wait(guests.GRUB_PROMPT)
        console.send(b"halt\r")
        _wait_for_shutdown("grub")


def test_linux_pv_has_disk_and_network_and_obeys_a_shutdown(tmp_path: Path) -> None:
    disks = [f"format=raw, vdev=xvda, access=ro, target={guests.PYGRUB_DISK}"]
    settings = LINUX | {"memory": guests.LINUX_MEMORY_MIB, "disk": disks, "vif": [f"bridge={guests.BRIDGE}"]}
    with xl.domain(xl.config(tmp_path, "linux", **settings)) as domid, attached(domid) as console:
        console.wait(guests.LINUX_UP)
        console.wait("\n")
        assert console.run("cat /sys/block/xvda/size") == str(guests.PYGRUB_DISK.stat().st_size // 512)
        console.run("ip address add 172.30.0.2/24 dev eth0 && ip link set eth0 up")
        assert "1 packets received" in console.run("ping -c 1 -w 30 172.30.0.1")
        xl.run("shutdown", "-w", "linux", timeout_s=60)


def test_linux_pvh_comes_up(tmp_path: Path) -> None:
    path = xl.config(tmp_path, "linux", type="pvh", memory=guests.LINUX_PVH_MEMORY_MIB, **LINUX)
    with xl.domain(path) as domid, attached(domid) as console:
        console.wait(guests.LINUX_UP)
        console.wait("\n")
        assert console.run("cat /sys/hypervisor/type") == "xen"


def test_a_deaf_linux_stays(tmp_path: Path) -> None:
    settings = LINUX | {"extra": f"{guests.LINUX_CMDLINE} {guests.LINUX_DEAF}", "memory": guests.LINUX_MEMORY_MIB}
    with xl.domain(xl.config(tmp_path, "deaf", **settings)) as domid, attached(domid) as console:
        console.wait(guests.LINUX_UP)
        console.wait("\n")
        xl.run("shutdown", "deaf")
        assert console.run("cat /proc/uptime")
        assert "deaf" in xl.names()


def test_pygrub_finds_the_default_entry(tmp_path: Path) -> None:
    disks = [f"format=raw, vdev=xvda, access=ro, target={guests.PYGRUB_DISK}"]
    path = xl.config(tmp_path, "menu", bootloader="pygrub", memory=guests.LINUX_MEMORY_MIB, disk=disks)
    with xl.domain(path) as domid, attached(domid) as console:
        assert guests.PYGRUB_DEFAULT in console.wait(guests.LINUX_UP) + console.wait("\n")


def test_hvm_runs_its_boot_sector_and_powers_off(tmp_path: Path) -> None:
    disks = [f"format=raw, vdev=hda, target={guests.HVM_DISK}"]
    settings = {"type": "hvm", "memory": guests.HVM_MEMORY_MIB, "serial": "pty", "vnc": 0}
    path = xl.config(tmp_path, "hvm", disk=disks, **settings)
    with xl.domain(path) as domid, attached(domid, "serial/0/tty") as console:
        console.wait(guests.HVM_UP)
        console.send(guests.HVM_POWEROFF)
        _wait_for_shutdown("hvm")


def _wait_for_shutdown(name: str, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while "s" not in xl.run("list", name).splitlines()[1].split()[4]:
        assert time.monotonic() < deadline, f"{name} did not shut down"
        time.sleep(0.2)
