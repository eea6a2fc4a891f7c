# SPDX-License-Identifier: Apache-2.0
"""Which domains are ours: across crashes at every step of making one, and among domains of others."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest

from tests.xenopsd.xen.domain.hypervisor import FakeHypervisor, Killed, UntilKilled
from tests.xenopsd.xen.xenstore import daemons
from xenops.errors import AlreadyExists, DoesNotExist
from xenops.events import Kind
from xenops.types.vm import Direct, Pv, Vm
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.domain.domains import Domains
from xenopsd.backends.xen.domain.layout import handle_of
from xenopsd.backends.xen.domctl import CreateDomain, Shutdown
from xenopsd.backends.xen.xenstore.changes import Remove
from xenopsd.backends.xen.xenstore.client import XenStore

_names = count()
Story = Callable[[XenStore, FakeHypervisor], Awaitable[None]]


@pytest.fixture(scope="module")
def socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with daemons.running("xenstored", tmp_path_factory.mktemp("xenstored") / "run") as path:
        yield path


@pytest.fixture
def tell(socket: Path) -> Callable[[Story], None]:
    def told(story: Story) -> None:
        async def run() -> None:
            xs = await XenStore.connect(str(socket))
            try:
                await story(xs, FakeHypervisor())
            finally:
                await xs.commit([Remove("/xenopsd"), Remove("/local"), Remove("/vm"), Remove("/libxl")])
                await xs.close()

        asyncio.run(run())

    return told


def a_vm() -> Vm:
    return Vm(id=f"vm-{next(_names)}", ty=Pv(boot=Direct(kernel="k")))


def wanted(handle: UUID) -> CreateDomain:
    return CreateDomain(handle=handle, max_vcpus=1)


def domains(xs: XenStore, xen: FakeHypervisor) -> Domains:
    fake: Any = xen
    return Domains(xs, fake)


def test_a_domain_is_found_again_by_the_next_life(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        vm = a_vm()
        domid = await domains(xs, xen).create(vm, wanted)
        assert xen.domains[domid].handle == handle_of(vm.id)
        again = domains(xs, xen)
        await again.adopt()
        assert again.require(vm.id) == domid
        assert again.machine(domid) == vm.id
        info = await again.info(vm.id)
        assert info is not None
        assert info.domid == domid
        assert await again.infos([vm.id, "another"]) == [info, None]

    tell(story)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_killed_anywhere_in_between_nothing_half_made_is_left_or_lost(tell: Callable[[Story], None], step: int) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        vm, foreign = a_vm(), uuid4()
        xen.domains[99] = xen.domains[await xen.create_domain(wanted(foreign))]
        before = set(xen.domains)
        xen.fuse = step
        mortal: Any = UntilKilled(xs, xen), UntilKilled(xen, xen)
        with pytest.raises(Killed):
            await Domains(*mortal).create(vm, wanted)
        xen.fuse = -1
        again = domains(xs, xen)
        await again.adopt()
        assert await xs.ls("/xenopsd/claim") == []
        ours = set(xen.domains) - before
        if again.domid(vm.id) is None:
            assert ours == set()
        else:
            assert ours == {again.require(vm.id)}
            assert xen.domains[again.require(vm.id)].handle == handle_of(vm.id)
            assert await xs.read(f"{layout.private(again.require(vm.id))}/action") == "discard"
        assert before <= set(xen.domains)

    tell(story)


def test_who_is_cancelled_while_a_domain_is_made_leaves_none(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        original = xen.create_domain

        async def made_and_cancelled(asked: CreateDomain, domid: int = 0) -> int:
            await original(asked, domid)
            raise asyncio.CancelledError

        xen.create_domain = made_and_cancelled  # type: ignore[method-assign]
        with pytest.raises(asyncio.CancelledError):
            await domains(xs, xen).create(a_vm(), wanted)
        assert xen.domains == {}
        assert await xs.ls("/xenopsd/claim") == []

    tell(story)


def test_a_domain_of_somebody_else_with_the_machines_uuid_is_not_taken_over(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        vm = a_vm()
        foreign = await xen.create_domain(wanted(handle_of(vm.id)))
        await xs.write(f"{layout.vm_tree(handle_of(vm.id))}/uuid", str(handle_of(vm.id)))
        ours = domains(xs, xen)
        await ours.adopt()
        assert ours.domid(vm.id) is None
        assert await ours.info(vm.id) is None
        with pytest.raises(AlreadyExists):
            await ours.create(vm, wanted)
        assert set(xen.domains) == {foreign}

    tell(story)


def test_a_domid_that_now_belongs_to_another_is_not_ours(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        vm = a_vm()
        domid = await domains(xs, xen).create(vm, wanted)
        await xs.write(f"{layout.private(domid)}/built", "1")
        xen.change(domid, handle=uuid4())  # ours died while nobody looked, and the number came round again
        again = domains(xs, xen)
        await again.adopt()
        assert await again.info(vm.id) is None
        with pytest.raises(DoesNotExist):
            again.require(vm.id)
        assert again.domid(vm.id) == domid, "what is left of ours in xenstore is still to be taken away"

    tell(story)


def test_ends_are_told_once_and_wake_who_waits(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        vm, told = a_vm(), asyncio.Queue[tuple[Kind, str]]()
        ours = domains(xs, xen)
        domid = await ours.create(vm, wanted)
        following = asyncio.create_task(ours.follow(lambda kind, id: told.put_nowait((kind, id))))
        waiting = asyncio.create_task(ours.wait(vm.id, lambda info: info is not None and info.shutdown, 30))
        await asyncio.sleep(0)
        await xs.introduce(domid, 1, 1)
        xen.change(domid, shutdown=True, shutdown_reason=Shutdown.REBOOT)
        await xs.release(domid)
        assert await waiting
        assert await asyncio.wait_for(told.get(), 30) == (Kind.VM, vm.id)
        assert not await ours.wait(vm.id, lambda info: info is None, 0.01)
        del xen.domains[domid]
        await xs.introduce(domid, 1, 1)
        await xs.release(domid)
        assert await asyncio.wait_for(told.get(), 30) == (Kind.VM, vm.id)
        assert told.empty()
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    tell(story)


def test_a_buried_domain_is_forgotten_and_its_successor_is_not(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        vm = a_vm()
        ours = domains(xs, xen)
        first = await ours.create(vm, wanted)
        second = await ours.create(vm, wanted)
        await ours.bury(vm.id, first)
        assert ours.require(vm.id) == second
        assert await xs.read(f"{layout.machine(handle_of(vm.id))}/domid") == str(second)
        await ours.bury(vm.id, second)
        assert ours.domid(vm.id) is None
        assert await xs.ls("/xenopsd/machine") == []
        assert await xs.ls("/local/domain") == []

    tell(story)


async def beside(xs: XenStore, xen: FakeHypervisor) -> tuple[Domains, Vm, Vm, int]:
    """A machine whose second domain alone is left, and which that is to become."""
    vm, twin, ours = a_vm(), a_vm(), domains(xs, xen)
    domid = await ours.create(twin, wanted)
    await xs.write(f"{layout.private(domid)}/built", "1")
    await xs.write(f"{layout.vm_tree(handle_of(twin.id))}/rtc/timeoffset", "7")
    return ours, vm, twin, domid


async def is_renamed(xs: XenStore, xen: FakeHypervisor, ours: Domains, vm: Vm, twin: Vm, domid: int) -> None:
    assert ours.require(vm.id) == domid
    assert ours.machine(domid) == vm.id
    assert ours.domid(twin.id) is None
    assert xen.domains[domid].handle == handle_of(vm.id)
    tree = layout.vm_tree(handle_of(vm.id))
    assert await xs.read(f"/local/domain/{domid}/vm") == tree
    assert await xs.read_many([f"{tree}/uuid", f"{tree}/rtc/timeoffset"]) == [str(handle_of(vm.id)), "7"]
    assert await xs.get_perms(f"{tree}/uuid") == ("n0", f"r{domid}")
    assert await xs.ls("/vm") == [str(handle_of(vm.id))]
    assert await xs.ls("/xenopsd/machine") == [str(handle_of(vm.id))]
    assert await xs.read(layout.was(domid)) is None


def test_a_domain_becomes_another_machines(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        ours, vm, twin, domid = await beside(xs, xen)
        await ours.rename(twin, vm)
        await is_renamed(xs, xen, ours, vm, twin, domid)
        await ours.rename(twin, vm)
        again = domains(xs, xen)
        await again.adopt()
        await is_renamed(xs, xen, again, vm, twin, domid)

    tell(story)


def test_a_machine_that_has_a_domain_gets_no_other(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        ours, vm, twin, domid = await beside(xs, xen)
        first = await ours.create(vm, wanted)
        with pytest.raises(AlreadyExists):
            await ours.rename(twin, vm)
        assert (ours.require(vm.id), ours.require(twin.id)) == (first, domid)

    tell(story)


def test_killed_between_a_new_name_and_its_handle_the_domain_is_still_ours(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        _, vm, twin, domid = await beside(xs, xen)
        mortal: Any = UntilKilled(xs, xen), UntilKilled(xen, xen)
        dying = Domains(*mortal)
        await dying.adopt()
        xen.fuse = 1
        with pytest.raises(Killed):
            await dying.rename(twin, vm)
        xen.fuse = -1
        assert xen.domains[domid].handle == handle_of(twin.id)
        again = domains(xs, xen)
        await again.adopt()
        await is_renamed(xs, xen, again, vm, twin, domid)

    tell(story)


def test_killed_while_its_memory_was_sent_a_guest_is_not_slow_for_ever(tell: Callable[[Story], None]) -> None:
    async def story(xs: XenStore, xen: FakeHypervisor) -> None:
        domid = await domains(xs, xen).create(a_vm(), wanted)
        xen.change(domid, hvm=True)
        xen.written.add(domid)
        await domains(xs, xen).adopt()
        assert xen.written == set()

    tell(story)
