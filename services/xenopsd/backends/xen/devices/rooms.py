# SPDX-License-Identifier: Apache-2.0
"""What the devices' rooms need of the others: narrow views of the world, so that a test can be a world of its own."""

from pathlib import Path
from typing import Protocol

from xenops.types.vm import Vm
from xenopsd.backends.port import Changed, RunProgram
from xenopsd.backends.xen.domctl import DomainInfo, Domctl
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.xenstore.client import XenStore


class Guests(Protocol):
    """Which domains are ours."""

    def domid(self, vm: str) -> int | None:
        """The domain that a machine has, or had and of which something may be left."""

    def require(self, vm: str) -> int:
        """The live domain of a machine. Raises `DoesNotExist("domain", id)`."""

    def machine(self, domid: int) -> str | None:
        """Whose domain that is."""

    async def info(self, vm: str) -> DomainInfo | None:
        """What the hypervisor says of a machine's domain; none when there is none, or one that is dying."""


class Emulators(Protocol):
    """Device models, as far as devices concern them."""

    async def change_medium(self, domid: int, devid: int, path: str | None) -> None:
        """Put that file into an emulated drive, or take out what is in it. Without a device model there is nothing to do."""

    async def serves_disks(self, vm: Vm, domid: int) -> bool:
        """Whether a QEMU is there that serves this domain's qdisk back ends; one is started for a guest that has none otherwise."""

    async def disk_refused(self, domid: int, devid: int) -> str:
        """Wait until a QEMU cannot serve that disk; what it says of it, untrusted."""

    async def let_go_of_disks(self, domid: int) -> None:
        """Where a QEMU only serves a suspended guest's disks: all is written, and their images are another QEMU's to open."""

    async def attach_pci(self, domid: int, address: str) -> None:
        """Show a PCI function. Without a device model there is nothing to do: it finds it when it starts."""

    async def detach_pci(self, domid: int, address: str) -> None:
        """Show it no more. Idempotent."""


class Host(Protocol):
    """The world, as far as devices concern it."""

    @property
    def xs(self) -> XenStore:
        """xenstore."""

    @property
    def xc(self) -> Domctl:
        """The hypervisor."""

    @property
    def domains(self) -> Guests:
        """Which domains are ours."""

    @property
    def device_models(self) -> Emulators:
        """The device models."""

    @property
    def run_program(self) -> RunProgram:
        """forkexecd."""

    @property
    def options(self) -> XenOptions:
        """The settings."""

    @property
    def changed(self) -> Changed:
        """Where changes are told."""

    @property
    def state_dir(self) -> Path:
        """A folder of ours."""
