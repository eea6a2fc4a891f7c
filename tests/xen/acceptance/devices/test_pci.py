# SPDX-License-Identifier: Apache-2.0
"""A PCI function of the host in a PV guest: its registers, its interrupt and its DMA, and that it comes back whole.

The rig's computer has no IOMMU, so this is the one kind of passthrough that it can show; the function is a source of
random numbers that nobody else uses.
"""

import subprocess
from pathlib import Path

import msgspec
import pytest

from tests.xen import guests
from tests.xen.acceptance import console, xl
from tests.xen.acceptance.devices.devices_host import Rooms, gone, is_up, story
from tests.xen.rig import guest_files, kernel
from xenops.errors import AlreadyExists, IoError
from xenops.types.ids import DeviceId
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.pci import XenPci

MODULES = ("xen-pcifront", "virtio-pci", "virtio-rng")
VIRTIO_RNG = ("0x1af4", "0x1005")
INSIDE = "/sys/bus/pci/devices/0000:00:00.0"


def random_source() -> PciAddress:
    """Where the host has it."""
    for device in Path("/sys/bus/pci/devices").iterdir():
        if tuple((device / name).read_text().strip() for name in ("vendor", "device")) == VIRTIO_RNG:
            return PciAddress.parse(device.name)
    raise AssertionError("the rig's computer has no virtio-rng")


def initramfs(folder: Path) -> Path:
    """The rig's Linux guest with the drivers of the bus and of the function."""
    modules = guest_files.modules_of(Path("/"))
    order = kernel.load_order((modules / "modules.dep").read_text(), MODULES)
    entries: dict[str, bytes | Path | None] = {
        f"modules/50-{number:02}-{Path(path).name}": (modules / path).read_bytes() for number, path in enumerate(order)
    }
    target = folder / "pci.initramfs"
    target.write_bytes(guests.LINUX_INITRAMFS.read_bytes() + kernel.archive(entries))
    return target


def test_a_function_works_in_a_guest_and_comes_back(tmp_path: Path) -> None:
    address = random_source()
    driver = Path(f"/sys/bus/pci/devices/{address}/driver")
    before = driver.resolve().name
    subprocess.run(["modprobe", "xen-pciback"], check=True, timeout=60)

    async def told(at: Rooms) -> None:
        room = XenPci(at.world, let_go_s=60.0)  # type: ignore[arg-type]
        async with at.guest("linux", paused=False, ramdisk=str(initramfs(tmp_path))) as vm, at.guest() as other:
            domid = at.domid(vm)
            with console.attached(domid) as guest:
                is_up(guest)
                function = Pci(id=DeviceId(vm=vm.id, dev="0"), address=address)
                with pytest.raises(IoError, match="no IOMMU"):
                    await room.plug(vm, function)
                at.world.options = XenOptions(pci_without_iommu=True)
                await room.plug(vm, function)
                assert driver.resolve().name == "pciback"
                with pytest.raises(AlreadyExists):
                    await room.plug(other, msgspec.structs.replace(function, id=DeviceId(vm=other.id, dev="0")))
                guest.run(f"for n in $(seq 60); do test -e {INSIDE}/driver && break; sleep 1; done; test -c /dev/hwrng")
                assert guest.run(f"cat {INSIDE}/vendor {INSIDE}/device").split() == list(VIRTIO_RNG)
                numbers = guest.run("dd if=/dev/hwrng bs=16 count=1 2>/dev/null | hexdump -v -e '16/1 \"%02x\"'")
                assert len(numbers) == 32, "by its DMA"
                assert guest.run("grep xen-pirq /proc/interrupts").split()[1] != "0", "by its interrupt"
                await room.unplug(vm, function)
                guest.run(gone(INSIDE))
                assert not (await room.state(vm, function)).plugged
                assert xl.store("ls", "-f").count(f"backend/pci/{domid}") == 0
                await room.dequarantine(address)
                assert driver.resolve().name == before
                await at.world.xs.rm("/xenopsd/pci")

    story(tmp_path, told)
