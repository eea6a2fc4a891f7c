# SPDX-License-Identifier: Apache-2.0
"""Memory that is promised to guests while they are built is counted once."""

import asyncio
from dataclasses import dataclass, replace

import pytest

from tests.xenopsd.xen.domain.hypervisor import BLANK, FakeHypervisor
from xenops.errors import NotEnoughMemory
from xenopsd.backends.xen.world import Ledger


@dataclass
class Physinfo:
    free_memory_kib: int
    scrub_memory_kib: int = 0
    claimed_memory_kib: int = 0


class Memory(FakeHypervisor):
    """A host of 1000 KiB."""

    async def physinfo(self) -> Physinfo:
        return Physinfo(1000 - sum(info.memory_kib for info in self.domains.values()))


def test_what_a_guest_has_taken_already_is_not_set_aside_again() -> None:
    async def story() -> None:
        xen = Memory()
        xen.domains = {domid: replace(BLANK, domid=domid) for domid in (1, 2)}
        ledger = Ledger(xen)  # type: ignore[arg-type]
        async with ledger.reserved(1, 600, force=False):
            with pytest.raises(NotEnoughMemory) as refusal:
                async with ledger.reserved(2, 401, force=False):
                    pass
            assert refusal.value.free == 400 << 10
            for taken in (300, 600, 700):  # as it is filled, and with what Xen needs for it
                xen.change(1, memory_kib=taken)
                assert await ledger.free_kib() == 1000 - max(600, taken)
            async with ledger.reserved(2, 300, force=False):
                assert await ledger.free_kib() == 0
        xen.change(1, memory_kib=0)
        assert await ledger.free_kib() == 1000

    asyncio.run(story())
