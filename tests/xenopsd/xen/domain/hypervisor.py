# SPDX-License-Identifier: Apache-2.0
"""A hypervisor of a few lines, where there is none: it knows domains by domid and handle, and no more."""

from dataclasses import replace
from typing import Any
from uuid import UUID

from xenops.errors import DoesNotExist
from xenopsd.backends.xen.domctl import CreateDomain, DomainInfo

BLANK = DomainInfo(
    domid=0,
    handle=UUID(int=0),
    dying=False,
    shutdown=False,
    paused=True,
    blocked=False,
    running=False,
    hvm=False,
    hap=False,
    shutdown_reason=0,
    memory_kib=0,
    max_memory_kib=0,
    vcpus_online=1,
    max_vcpu_id=0,
    cpu_time_ns=0,
    ssidref=0,
    emulation_flags=0,
)


class Killed(BaseException):
    """The daemon ends here, as if by SIGKILL."""


class FakeHypervisor:
    """What `Domains` asks of `Domctl`. At the `fuse`th moment the daemon ends: none of its calls gets through any more."""

    def __init__(self) -> None:
        self.domains: dict[int, DomainInfo] = {}
        self.next = 1
        self.fuse = -1
        self.written: set[int] = set()  # those of whose writes account is kept

    def change(self, domid: int, **facts: Any) -> None:
        """Something happened to a domain."""
        self.domains[domid] = replace(self.domains[domid], **facts)

    async def create_domain(self, wanted: CreateDomain, domid: int = 0) -> int:
        self._burn()
        domid, self.next = self.next, self.next + 1
        self.domains[domid] = replace(BLANK, domid=domid, handle=wanted.handle)
        self._burn()
        return domid

    async def set_handle(self, domid: int, handle: UUID) -> None:
        self._burn()
        self.change(domid, handle=handle)

    async def forget_writes(self, domid: int) -> None:
        self.written.discard(domid)

    async def destroy(self, domid: int) -> None:
        if self.domains.pop(domid, None) is None:
            raise DoesNotExist("domain", str(domid))

    async def get_info(self, domid: int) -> DomainInfo | None:
        return self.domains.get(domid)

    async def list_info(self, first: int = 0) -> list[DomainInfo]:
        return [info for domid, info in self.domains.items() if domid >= first]

    def _burn(self) -> None:
        if self.fuse > 0:
            self.fuse -= 1
        if self.fuse == 0:
            raise Killed

    @property
    def killed(self) -> bool:
        """Whether the daemon has ended."""
        return self.fuse == 0


class UntilKilled:
    """Anything, as a daemon can use it for as long as it lives."""

    def __init__(self, of: Any, xen: FakeHypervisor) -> None:
        self._of, self._xen = of, xen

    def __getattr__(self, name: str) -> Any:
        if self._xen.killed:
            raise Killed
        return getattr(self._of, name)
