# SPDX-License-Identifier: Apache-2.0
"""The short hypercalls on the real hypervisor: what they say, and how they fail."""

import asyncio
import os
import uuid
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.xen.acceptance import xl
from xenops.errors import DoesNotExist, Fault, HypercallFailed
from xenopsd.backends.xen.domctl import (
    Affinity,
    CreateDomain,
    Domctl,
    Featureset,
    HvmParam,
    Scheduling,
    Shutdown,
    Trigger,
)
from xenopsd.backends.xen.libxc import Xc

NOWHERE = 30000  # a domid that no domain has


def with_xen(test: Callable[[Domctl], Awaitable[None]]) -> None:
    """Run a test with the hypervisor open, and see every handle closed."""

    async def run() -> None:
        xc = Domctl()
        try:
            await test(xc)
        finally:
            await xc.close()

    descriptors = len(os.listdir("/proc/self/fd"))
    asyncio.run(run())
    assert Xc.open_handles == 0
    assert len(os.listdir("/proc/self/fd")) == descriptors


async def created(xc: Domctl, vcpus: int = 1) -> tuple[int, uuid.UUID]:
    handle = uuid.uuid4()
    domid = await xc.create_domain(CreateDomain(handle, max_vcpus=vcpus))
    await xc.set_max_vcpus(domid, vcpus)
    return domid, handle


def test_the_host_is_told_as_xl_tells_it() -> None:
    async def test(xc: Domctl) -> None:
        told = dict(line.split(":", 1) for line in xl.run("info", "-n").splitlines() if ":" in line)
        told = {key.strip(): value.strip() for key, value in told.items()}
        version, host = await xc.version(), await xc.physinfo()
        assert version.release == f"{told['xen_major']}.{told['xen_minor']}" == "4.17"
        assert version.extra == told["xen_extra"]
        assert list(version.capabilities) == told["xen_caps"].split()
        assert version.cmdline == told["xen_commandline"]
        assert host.nr_cpus == int(told["nr_cpus"]) == len(await xc.cpus())
        assert host.total_memory_kib >> 10 == int(told["total_memory"])
        assert abs((host.free_memory_kib >> 10) - int(told["free_memory"])) < 64
        assert host.cpu_khz // 1000 == int(float(told["cpu_mhz"]))
        assert (host.pv, host.hvm, host.hap) == (True, True, True)
        assert [node.distances for node in await xc.numa_nodes()] == [(10,)]
        assert await xc.scheduler_id() == 6
        words = await xc.featureset(Featureset.PV)
        assert any(words)
        assert len(words) == len(await xc.featureset(Featureset.HVM))

    with_xen(test)


def test_a_domain_from_its_making_to_its_end() -> None:
    async def test(xc: Domctl) -> None:
        domid, handle = await created(xc, vcpus=2)
        try:
            info = await xc.get_info(domid)
            assert info is not None
            assert (info.domid, info.handle, info.paused, info.hvm) == (domid, handle, True, False)
            assert (info.shutdown, info.dying, info.max_vcpu_id) == (False, False, 1)
            assert f" {domid} " in xl.run("list")
            other = uuid.uuid4()
            await xc.set_handle(domid, other)
            await xc.set_max_mem(domid, 64 << 10)
            found = {each.domid: each for each in await xc.list_info()}
            assert (found[domid].handle, found[domid].max_memory_kib) == (other, 64 << 10)
            assert [each.domid for each in await xc.list_info(domid)] == [domid]
            await xc.shutdown(domid, Shutdown.CRASH)
            info = await xc.get_info(domid)
            assert info is not None
            assert (info.shutdown, info.shutdown_reason) == (True, Shutdown.CRASH)
        finally:
            await xc.destroy(domid)
        assert await xc.get_info(domid) is None

    with_xen(test)


def test_vcpus_are_placed_and_weighed() -> None:
    async def test(xc: Domctl) -> None:
        domid, _ = await created(xc, vcpus=2)
        try:
            await xc.set_affinity(domid, 1, Affinity.HARD, [0])
            assert await xc.get_affinity(domid, 1, Affinity.HARD) == [0]
            await xc.set_affinity(domid, 0, Affinity.SOFT, [0])
            assert 0 in await xc.get_affinity(domid, 0, Affinity.SOFT)
            await xc.set_scheduling(domid, Scheduling(weight=512, cap=50))
            assert await xc.get_scheduling(domid) == Scheduling(weight=512, cap=50)
            assert not (await xc.vcpu_info(domid, 1)).running
            assert await xc.alloc_unbound(domid) == 1
            assert await xc.alloc_unbound(domid) == 2
            await xc.set_max_mem(domid, 8 << 10)
            await xc.claim_pages(domid, 256)
            await xc.claim_pages(domid, 0)
        finally:
            await xc.destroy(domid)

    with_xen(test)


def test_hvm_parameters_and_paging_memory() -> None:
    async def test(xc: Domctl) -> None:
        domid = await xc.create_domain(
            CreateDomain(uuid.uuid4(), 1, hvm=True, hap=True, oos_off=True, emulation_flags=1)
        )
        try:
            await xc.set_max_vcpus(domid, 1)
            await xc.set_shadow_allocation(domid, 3)
            assert await xc.get_shadow_allocation(domid) == 3
            await xc.set_hvm_param(domid, HvmParam.CONSOLE_EVTCHN, 7)
            assert await xc.get_hvm_param(domid, HvmParam.CONSOLE_EVTCHN) == 7
            await xc.set_time_offset(domid, 3600)
            info = await xc.get_info(domid)
            assert info is not None
            assert (info.hvm, info.hap, info.emulation_flags) == (True, True, 1)
        finally:
            await xc.destroy(domid)

    with_xen(test)


def test_the_console_of_the_hypervisor() -> None:
    async def test(xc: Domctl) -> None:
        await xc.send_debug_keys("h")
        assert "'h' pressed" in await xc.console_ring()
        assert "'h' pressed" in await xc.console_ring(clear=True)
        assert "'h' pressed" not in await xc.console_ring()

    with_xen(test)


FAILURES: dict[str, tuple[Callable[[Domctl, int], Awaitable[object]], str, str]] = {
    "no vCPUs": (lambda xc, domid: xc.set_max_vcpus(domid, 0), "xc_domain_max_vcpus", "EINVAL"),
    "nowhere to run": (lambda xc, domid: xc.set_affinity(domid, 0, Affinity.HARD, []), "xc_vcpu_setaffinity", "EINVAL"),
    "a domid in use": (
        lambda xc, domid: xc.create_domain(CreateDomain(uuid.uuid4(), 1), domid),
        "xc_domain_create",
        "EEXIST",
    ),
    "an emulation that is none": (
        lambda xc, domid: xc.create_domain(CreateDomain(uuid.uuid4(), 1, hvm=True, hap=True, emulation_flags=2)),
        "xc_domain_create",
        "EOPNOTSUPP",
    ),
    "an HVM parameter of a PV domain": (
        lambda xc, domid: xc.get_hvm_param(domid, HvmParam.STORE_PFN),
        "xc_hvm_param_get",
        "EINVAL",
    ),
    "a button of a PV domain": (
        lambda xc, domid: xc.send_trigger(domid, Trigger.POWER),
        "xc_domain_send_trigger",
        "EINVAL",
    ),
    "more than there is": (lambda xc, domid: xc.claim_pages(domid, 1 << 40), "xc_domain_claim_pages", "EINVAL"),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_names_the_call_and_why(case: str) -> None:
    doing, call, why = FAILURES[case]

    async def test(xc: Domctl) -> None:
        domid, _ = await created(xc)
        try:
            with pytest.raises(HypercallFailed) as caught:
                await doing(xc, domid)
            assert caught.value.call == call
            assert caught.value.errno == why
            assert caught.value.reason
        finally:
            await xc.destroy(domid)

    with_xen(test)


GONE: dict[str, Callable[[Domctl], Awaitable[object]]] = {
    "destroy": lambda xc: xc.destroy(NOWHERE),
    "pause": lambda xc: xc.pause(NOWHERE),
    "unpause": lambda xc: xc.unpause(NOWHERE),
    "shutdown": lambda xc: xc.shutdown(NOWHERE, Shutdown.POWEROFF),
    "max_mem": lambda xc: xc.set_max_mem(NOWHERE, 1024),
    "set_handle": lambda xc: xc.set_handle(NOWHERE, uuid.uuid4()),
    "vcpu_info": lambda xc: xc.vcpu_info(NOWHERE, 0),
    "alloc_unbound": lambda xc: xc.alloc_unbound(NOWHERE),
    "get_hvm_param": lambda xc: xc.get_hvm_param(NOWHERE, HvmParam.STORE_PFN),
    "scheduling": lambda xc: xc.get_scheduling(NOWHERE),
}


@pytest.mark.parametrize("name", GONE)
def test_a_domain_that_is_not_there_is_named(name: str) -> None:
    async def test(xc: Domctl) -> None:
        with pytest.raises(DoesNotExist) as caught:
            await GONE[name](xc)
        assert caught.value == DoesNotExist("domain", str(NOWHERE))
        assert await xc.get_info(NOWHERE) is None

    with_xen(test)


def test_many_at_once_and_who_gives_up_leaves_no_doubt() -> None:
    async def test(xc: Domctl) -> None:
        handle = uuid.uuid4()
        making = asyncio.create_task(xc.create_domain(CreateDomain(handle, 1)))
        await asyncio.sleep(0)
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        # Whether it was made is now decided, and can be seen.
        mine = [each.domid for each in await xc.list_info() if each.handle == handle]
        await asyncio.gather(*(xc.get_info(0) for _ in range(50)))
        for domid in mine:
            await xc.destroy(domid)
        assert not [each for each in await xc.list_info() if each.handle == handle]

    with_xen(test)


def test_a_missing_device_is_a_fault(tmp_path: Path) -> None:
    async def test(xc: Domctl) -> None:
        domid, _ = await created(xc)
        try:
            assert not await xc.test_assign_device(domid, 0x0000FFFF)
            with pytest.raises(Fault):
                await xc.assign_device(domid, 0x0000FFFF)
        finally:
            await xc.destroy(domid)

    with_xen(test)
