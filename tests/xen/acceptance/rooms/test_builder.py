# SPDX-License-Identifier: Apache-2.0
"""Guests built, saved, restored and dumped by a builder process on the real hypervisor."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.xen import guests
from tests.xen.acceptance import console
from tests.xen.acceptance.console import Console
from tests.xen.acceptance.rooms.bare import HVMLOADER, Bench, Empty
from xenops.errors import HypercallFailed, IoError, StepTimedOut
from xenopsd.backends.xen.builder.orders import DumpCore, GuestKind, Restore, Save, Saved, Suspended
from xenopsd.backends.xen.domctl import Shutdown

PV, PVH, HVM = GuestKind.PV, GuestKind.PVH, GuestKind.HVM


def with_bench(test: Callable[[Bench], Awaitable[None]], folder: Path, helpers: int = 1) -> None:
    async def run() -> None:
        async with Bench.opened(folder, helpers) as bench:
            await test(bench)

    asyncio.run(run())


@asynccontextmanager
async def running(bench: Bench, domain: Empty) -> AsyncIterator[Console]:
    """The built and introduced domain with its console, from its first word."""
    with console.attached(domain.domid) as terminal:
        await bench.xc.unpause(domain.domid)
        yield terminal


async def wait(terminal: Console, words: str) -> str:
    return await asyncio.to_thread(terminal.wait, words)


@pytest.mark.parametrize(("kind", "kernel"), [(PV, guests.GRUB_PV), (PVH, guests.GRUB_PVH)])
def test_grub_boots_and_halts(kind: GuestKind, kernel: Path, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async with bench.empty(kind, guests.GRUB_MEMORY_MIB) as domain:
            async with bench.builders.take() as builder:
                await bench.introduce(domain, await builder.build(domain.order(kernel)))
            async with running(bench, domain) as terminal:
                await wait(terminal, guests.GRUB_UP)
                await wait(terminal, guests.GRUB_PROMPT)
                terminal.send(b"halt\r")
                assert await ended(bench, domain.domid) is Shutdown.POWEROFF

    with_bench(test, tmp_path)


@pytest.mark.parametrize("kernel", [guests.LINUX_ELF, guests.LINUX_BZIMAGE])
def test_linux_boots_with_its_ramdisk_and_command_line(kernel: Path, tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async with linux(bench, PV, kernel, vcpus=2) as (_, terminal):
            assert guests.LINUX_CMDLINE in terminal.run("cat /proc/cmdline")
            assert terminal.run("grep -c ^processor /proc/cpuinfo") == "2"

    with_bench(test, tmp_path)


def test_linux_boots_under_pvh_with_our_acpi_tables(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async with linux(bench, PVH, guests.LINUX_ELF, vcpus=2) as (_, terminal):
            assert terminal.run("grep -c ^processor /proc/cpuinfo") == "2"
            assert terminal.run("ls /sys/firmware/acpi/tables").split()[:3] == ["APIC", "DSDT", "FACP"]

    with_bench(test, tmp_path)


def test_hvmloader_is_built_with_its_firmware_and_vcpus(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async with bench.empty(HVM, guests.HVM_MEMORY_MIB, vcpus=2) as domain, bench.builders.take() as builder:
            built = await builder.build(domain.order(HVMLOADER))
            assert built.store_mfn != built.console_mfn
            info = await bench.xc.get_info(domain.domid)
            assert info is not None
            assert (info.hvm, info.vcpus_online) == (True, 1)
            assert abs(info.memory_kib - (guests.HVM_MEMORY_MIB << 10)) < 2048
        # Without a device model it comes as far as to find no disk.
        async with loud(bench), bench.empty(HVM, guests.HVM_MEMORY_MIB, vcpus=2) as domain:
            await bench.start(domain, domain.order(HVMLOADER))
            for words in ("System requested SeaBIOS", "- CPU1 ...", "No bootable device"):
                await until(lambda said=words: says(bench, f"(d{domain.domid})", said))  # type: ignore[misc]

    with_bench(test, tmp_path)


def test_a_kernel_is_unpacked_once(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async with bench.builders.take() as builder:
            elf = await builder.unpack(guests.LINUX_BZIMAGE)
            assert elf.parent == tmp_path / "kernels"
            assert elf.read_bytes()[:4] == b"\x7fELF"
            inode = elf.stat().st_ino
            copy = tmp_path / "vmlinuz-copied-by-a-boot-loader"
            copy.write_bytes(guests.LINUX_BZIMAGE.read_bytes())
            assert (await builder.unpack(copy)).stat().st_ino == inode
            assert await builder.unpack(guests.LINUX_ELF) == guests.LINUX_ELF

    with_bench(test, tmp_path)


FAILING: dict[str, tuple[Callable[[Empty, Path], object], type[Exception], str]] = {
    "no kernel": (lambda domain, folder: domain.order(folder / "none"), IoError, "No such file"),
    "not a kernel": (lambda domain, folder: domain.order(guests.LINUX_INITRAMFS), IoError, "no kernel|no ELF"),
    "a kernel of another kind": (lambda domain, folder: domain.order(guests.GRUB_PVH), IoError, "no kernel that Xen"),
    "too little memory": (
        lambda domain, folder: domain.order(guests.LINUX_ELF),
        IoError,
        "does not fit into the 32 MiB",
    ),
    "no ramdisk": (lambda domain, folder: domain.order(guests.GRUB_PV, folder / "none"), IoError, "ramdisk"),
}


@pytest.mark.parametrize("case", FAILING)
def test_what_cannot_be_built_is_told_and_the_domain_can_go(case: str, tmp_path: Path) -> None:
    order, fault, words = FAILING[case]

    async def test(bench: Bench) -> None:
        async with bench.empty(PV, guests.GRUB_MEMORY_MIB) as domain:
            with pytest.raises(fault, match=words):
                async with bench.builders.take() as builder:
                    await builder.build(order(domain, tmp_path))  # type: ignore[arg-type]
        assert await bench.xc.get_info(domain.domid) is None
        await works(bench)

    with_bench(test, tmp_path)


def test_a_build_that_is_cancelled_leaves_a_domain_that_can_go(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.builders.settled()
        async with bench.empty(PV, guests.LINUX_MEMORY_MIB) as domain:
            [before] = bench.builders.pids
            building = asyncio.create_task(build(bench, domain, guests.LINUX_ELF))
            await until(lambda: populated(bench, domain.domid))
            building.cancel()
            with pytest.raises(asyncio.CancelledError):
                await building
            assert not Path(f"/proc/{before}").exists()
        assert await bench.xc.get_info(domain.domid) is None
        await works(bench)

    with_bench(test, tmp_path)


def test_a_builder_that_is_killed_or_hangs_is_named(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        await bench.builders.settled()
        for what, fault in ((signal.SIGKILL, HypercallFailed), (signal.SIGSTOP, StepTimedOut)):
            async with bench.empty(PV, guests.LINUX_MEMORY_MIB) as domain:
                await bench.builders.settled()
                [pid] = bench.builders.pids
                building = asyncio.create_task(build(bench, domain, guests.LINUX_ELF, timeout_s=3))
                await until(lambda here=domain.domid: populated(bench, here))  # type: ignore[misc]
                os.kill(pid, what)
                with pytest.raises(fault):
                    await building
            assert await bench.xc.get_info(domain.domid) is None
        await works(bench)

    with_bench(test, tmp_path)


# Debian's Xen has no shadow paging, without which a PV guest cannot be saved while it runs.
@pytest.mark.parametrize(("kind", "live"), [(PV, False), (PVH, False), (PVH, True)])
def test_a_guest_is_saved_and_restored(kind: GuestKind, live: bool, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(300 << 20))  # an older and longer one

    async def test(bench: Bench) -> None:
        done: list[float] = []
        async with linux(bench, kind, guests.LINUX_ELF) as (domain, terminal):
            memory_mib = domain.memory_mib
            terminal.run("echo remembered > /tmp/note")
            saved = await save(bench, domain, image, live=live, progress=done.append)
            assert saved.image_bytes == image.stat().st_size > 64 << 20
        assert done == sorted(done)
        async with bench.empty(kind, memory_mib) as again:
            await restore(bench, again, image)
            async with running(bench, again) as terminal:
                assert await asyncio.to_thread(terminal.run, "cat /tmp/note") == "remembered"

    with_bench(test, tmp_path)


def test_a_save_that_the_guest_refuses_leaves_it_running(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async def refuse() -> Suspended:
            raise StepTimedOut("the guest", 1)

        async with linux(bench, PV, guests.LINUX_ELF) as (domain, terminal):
            order = Save(domid=domain.domid, path=str(tmp_path / "image"), metadata=b"", hvm=False)
            with pytest.raises(StepTimedOut, match="the guest"):
                async with bench.builders.take() as builder:
                    await builder.save(order, refuse)
            assert terminal.run("echo still here") == "still here"
            full = Save(domid=domain.domid, path="/dev/full", metadata=b"", hvm=False)
            with pytest.raises(IoError, match="neither a file nor a block device"):
                async with bench.builders.take() as builder:
                    await builder.save(full, refuse)

    with_bench(test, tmp_path)


def test_images_that_are_damaged_are_told(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        image = tmp_path / "image"
        async with linux(bench, PV, guests.LINUX_ELF) as (domain, _):
            await save(bench, domain, image)
            # The same guest's core, as it stands there suspended.
            async with bench.builders.take() as builder:
                dumped = await builder.dump_core(DumpCore(domain.domid, str(tmp_path / "core")))
            assert dumped.core_bytes == (tmp_path / "core").stat().st_size > guests.LINUX_MEMORY_MIB << 19
            with (tmp_path / "core").open("rb") as core:
                assert core.read(4) == b"\x7fELF"
        whole = image.stat().st_size
        for length in (whole - 16, whole // 2, 30, 0):
            os.truncate(image, length)
            async with bench.empty(PV, guests.LINUX_MEMORY_MIB) as again:
                with pytest.raises(IoError) as caught:
                    await restore(bench, again, image)
                assert caught.value.path == str(image)
        await works(bench)

    with_bench(test, tmp_path)


def test_many_guests_at_once_share_the_builders(tmp_path: Path) -> None:
    async def test(bench: Bench) -> None:
        async def one() -> None:
            async with bench.empty(PVH, guests.GRUB_MEMORY_MIB) as domain:
                await build(bench, domain, guests.GRUB_PVH)

        await asyncio.gather(*(one() for _ in range(8)))
        assert len(bench.builders.pids) == 2, "none was started while others became free"

    with_bench(test, tmp_path, helpers=2)


async def build(bench: Bench, domain: Empty, kernel: Path, *, timeout_s: float = 60) -> None:
    async with bench.builders.take() as builder:
        await builder.build(domain.order(kernel), timeout_s=timeout_s)


async def works(bench: Bench) -> None:
    """There is a builder, and it builds."""
    async with bench.empty(PV, guests.GRUB_MEMORY_MIB) as domain:
        await build(bench, domain, guests.GRUB_PV)


@asynccontextmanager
async def linux(bench: Bench, kind: GuestKind, kernel: Path, vcpus: int = 1) -> AsyncIterator[tuple[Empty, Console]]:
    """A Linux guest that has come up."""
    memory_mib = guests.LINUX_MEMORY_MIB if kind is PV else guests.LINUX_PVH_MEMORY_MIB
    async with bench.empty(kind, memory_mib, vcpus) as domain:
        async with bench.builders.take() as builder:
            order = domain.order(kernel, guests.LINUX_INITRAMFS, guests.LINUX_CMDLINE)
            await bench.introduce(domain, await builder.build(order))
        async with running(bench, domain) as terminal:
            await wait(terminal, guests.LINUX_UP)
            await wait(terminal, "\n")
            yield domain, terminal


async def save(
    bench: Bench, domain: Empty, path: Path, *, live: bool = False, progress: Callable[[float], None] | None = None
) -> Saved:
    async def suspend() -> Suspended:
        await bench.xs.write(f"/local/domain/{domain.domid}/control/shutdown", "suspend")
        return Suspended(ok=await ended(bench, domain.domid) is Shutdown.SUSPEND)

    order = Save(domid=domain.domid, path=str(path), metadata=b"who it is", hvm=domain.kind is not PV, live=live)
    async with bench.builders.take() as builder:
        return await builder.save(order, suspend, progress=progress)


async def restore(bench: Bench, domain: Empty, path: Path) -> None:
    order = Restore(
        domid=domain.domid,
        path=str(path),
        hvm=domain.kind is not PV,
        store_port=domain.store_port,
        console_port=domain.console_port,
        qemu_state_path=f"{path}.qemu",
    )
    async with bench.builders.take() as builder:
        restored = await builder.restore(order)
        assert (restored.metadata, restored.has_qemu_state) == (b"who it is", False)
        await bench.introduce(domain, restored)


async def ended(bench: Bench, domid: int) -> Shutdown:
    """Why the domain has shut down, when it has."""

    async def has() -> bool:
        info = await bench.xc.get_info(domid)
        return info is not None and info.shutdown

    await until(has)
    info = await bench.xc.get_info(domid)
    assert info is not None
    return Shutdown(info.shutdown_reason)


@asynccontextmanager
async def loud(bench: Bench) -> AsyncIterator[None]:
    """What guests print goes to the hypervisor's console, as with guest_loglvl=all."""
    for key in "G++":
        await bench.xc.send_debug_keys(key)
    try:
        yield
    finally:
        for key in "--G":
            await bench.xc.send_debug_keys(key)


async def says(bench: Bench, *words: str) -> bool:
    ring = await bench.xc.console_ring()
    return any(all(word in line for word in words) for line in ring.splitlines())


async def populated(bench: Bench, domid: int) -> bool:
    info = await bench.xc.get_info(domid)
    return info is not None and info.memory_kib > 0


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(60):
        while not await holds():  # noqa: ASYNC110 (nothing announces what Xen does to a domain that is being filled)
            await asyncio.sleep(0.005)
