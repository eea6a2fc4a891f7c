# SPDX-License-Identifier: Apache-2.0
"""What device models need of the other rooms: a narrow view of the world, so that a test can be a world of its own."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from xenopsd.backends.port import Changed, RunProgram
from xenopsd.backends.xen.domctl import DomainInfo, Shutdown
from xenopsd.backends.xen.options import XenOptions
from xenopsd.backends.xen.xenstore.client import XenStore


class Hypervisor(Protocol):
    """What device models need of it."""

    async def shutdown(self, domid: int, reason: Shutdown) -> None:
        """Shut a domain down at once."""


class Guests(Protocol):
    """Which domains are ours."""

    def machine(self, domid: int) -> str | None:
        """Whose domain that is."""

    def items(self) -> list[tuple[str, int]]:
        """All machines that have domains."""

    async def wait(self, vm: str, until: Callable[[DomainInfo | None], bool], timeout_s: float) -> bool:
        """Wait until the hypervisor says that of a machine's domain; false when the time is up."""


class Host(Protocol):
    """The world, as far as device models concern it."""

    @property
    def xs(self) -> XenStore:
        """xenstore."""

    @property
    def xc(self) -> Hypervisor:
        """The hypervisor."""

    @property
    def domains(self) -> Guests:
        """Which domains are ours."""

    @property
    def run_program(self) -> RunProgram:
        """forkexecd."""

    @property
    def programs(self) -> Mapping[str, Path]:
        """The helper programs that were found."""

    @property
    def options(self) -> XenOptions:
        """The settings."""

    @property
    def changed(self) -> Changed:
        """Where changes are told."""
