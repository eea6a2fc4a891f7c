# SPDX-License-Identifier: Apache-2.0
"""The PCI functions of this host as its kernel has them, in sysfs: who drives one, what it decodes, pciback's hold on it.

Source: Documentation/ABI/testing/sysfs-bus-pci and sysfs-driver-pciback of Linux.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xenops.errors import DoesNotExist, IoError, PcibackNotLoaded
from xenops.types.pci_address import PciAddress

log = logging.getLogger(__name__)

_IO, _MEMORY = 0x100, 0x200  # IORESOURCE_IO, IORESOURCE_MEM: linux/ioport.h


@dataclass(frozen=True)
class Region:
    """What a function decodes: I/O ports or memory, both ends included."""

    ports: bool
    first: int
    last: int


def regions(untrusted_resource: str) -> Iterator[Region]:
    """The lines of sysfs' `resource`: first, last and flags; a region that is not there is all zeros."""
    for line in untrusted_resource.splitlines():
        words = line.split()
        if len(words) != 3:
            continue
        try:
            first, last, flags = (int(word, 16) for word in words)
        except ValueError:
            continue
        if flags & (_IO | _MEMORY) and last >= first and last:
            yield Region(bool(flags & _IO), first, last)


def sbdf(address: PciAddress) -> int:
    """Segment, bus, device and function as hypercalls take them."""
    return address.domain << 16 | address.bus << 8 | address.dev << 3 | address.fn


class Functions:
    """The functions and drivers of this host; blocking, and quick."""

    def __init__(self, root: Path) -> None:
        self._bus = root / "bus/pci"

    def take(self, address: PciAddress) -> None:
        """pciback has it afterwards. Idempotent. Raises `PcibackNotLoaded`, `DoesNotExist`, `IoError`."""
        pciback = self._bus / "drivers/pciback"
        if not pciback.is_dir():
            raise PcibackNotLoaded()
        if not self._device(address).is_dir():
            raise DoesNotExist("pci", str(address))
        driver = self.driver(address)
        if driver == "pciback":
            return
        if driver:
            self._write(self._device(address) / "driver/unbind", str(address))
        self._write(pciback / "new_slot", str(address))
        self._write(pciback / "bind", str(address))

    def give_back(self, address: PciAddress, driver: str) -> None:
        """pciback has it no more, the driver that had it has it again. Idempotent. Raises `IoError`."""
        pciback = self._bus / "drivers/pciback"
        if self.driver(address) == "pciback":
            self._write(pciback / "unbind", str(address))
            with suppress(IoError):  # it was there before us: then there is no slot to remove
                self._write(pciback / "remove_slot", str(address))
        if driver and not self.driver(address) and (self._bus / "drivers" / driver).is_dir():
            self._write(self._bus / "drivers" / driver / "bind", str(address))

    def reset(self, address: PciAddress) -> None:
        """What the last guest did to it is forgotten, where the function can be reset."""
        file = self._device(address) / "reset"
        if not file.exists():
            log.warning("%s cannot be reset", address)
            return
        try:
            self._write(file, "1")
        except IoError as error:
            log.warning("%s was not reset: %s", address, error)

    def driver(self, address: PciAddress) -> str:
        """Which driver has it, if any."""
        try:
            return os.path.basename(os.readlink(self._device(address) / "driver"))
        except OSError:
            return ""

    def resources(self, address: PciAddress) -> tuple[list[Region], int]:
        """What it decodes, and its interrupt (0: none)."""
        try:
            text = (self._device(address) / "resource").read_text()
            irq = (self._device(address) / "irq").read_text().strip()
        except OSError as error:
            raise IoError(str(self._device(address)), error.strerror or str(error)) from error
        return list(regions(text)), int(irq) if irq.isascii() and irq.isdigit() else 0

    def _device(self, address: PciAddress) -> Path:
        return self._bus / "devices" / str(address)

    @staticmethod
    def _write(path: Path, text: str) -> None:
        try:
            path.write_text(text)
        except OSError as error:
            raise IoError(str(path), error.strerror or str(error)) from error
