# SPDX-License-Identifier: Apache-2.0
"""pygrub's answers, honest and not; and the real pygrub on a real file system."""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import BadRequest, BootloaderError, Fault, NoBootableDevice
from xenops.types.disk import Disk, Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.process import Ended, Program
from xenops.types.vbd import Vbd
from xenops.types.vm import Indirect, Pv, Vm
from xenopsd.backends.xen.domain import bootloader

PYGRUB = Path("/usr/lib/xen-4.17/bin/pygrub")
KERNEL, RAMDISK = os.urandom(70_000), os.urandom(3_000)
MENU = """
set default=0
menuentry "first" {
  linux /boot/vmlinuz root=/dev/xvda1 ro
  initrd /boot/initrd
}
menuentry "second" {
  linux /boot/other single
}
"""

Answer = Callable[[Program], Awaitable[Ended]]


class Guests:
    def require(self, vm: str) -> int:
        return 7


@dataclass
class Host:
    state_dir: Path
    answer: Answer
    programs: dict[str, Path] = field(default_factory=lambda: {"pygrub": PYGRUB})
    domains: Guests = field(default_factory=Guests)
    asked: list[Program] = field(default_factory=list)

    async def run_program(self, program: Program) -> Ended:
        self.asked.append(program)
        return await self.answer(program)


async def really(program: Program) -> Ended:
    process = await asyncio.create_subprocess_exec(
        *program.argv, env=program.env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    out, err = await process.communicate()
    return Ended(code=process.returncode or 0, stdout=out, stderr=err)


def machine(*disks: Disk, **boot: object) -> Metadata:
    indirect = Indirect(**{"bootloader": "pygrub", **boot})  # type: ignore[arg-type]
    vbds = [
        Vbd(id=DeviceId(vm="guest", dev=f"{n}"), position=f"xvd{'abc'[n]}", backend=disk)
        for n, disk in enumerate(disks)
    ]
    return Metadata(vm=Vm(id="guest", ty=Pv(boot=indirect)), vbds=list(reversed(vbds)))


def image(folder: Path) -> Local:
    tree = folder / "tree"
    (tree / "boot/grub").mkdir(parents=True)
    (tree / "boot/grub/grub.cfg").write_text(MENU)
    (tree / "boot/vmlinuz").write_bytes(KERNEL)
    (tree / "boot/other").write_bytes(KERNEL[::-1])
    (tree / "boot/initrd").write_bytes(RAMDISK)
    path = folder / "disk.img"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(path), "4M"], check=True)
    return Local(path=str(path))


needs_pygrub = pytest.mark.skipif(
    not PYGRUB.exists() or shutil.which("mke2fs") is None, reason="xen-utils-4.17 or e2fsprogs is not installed"
)
needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/loop-control").exists(), reason="only root can make device nodes"
)


@pytest.fixture
def ordinary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootloader.os, "geteuid", lambda: 1000)


@needs_pygrub
def test_real_pygrub_brings_out_the_kernel_for_as_long_as_it_is_needed(tmp_path: Path, ordinary: None) -> None:
    world = Host(tmp_path / "state", really)

    async def scenario() -> None:
        wanted = machine(image(tmp_path), Local(path="/nowhere"), legacy_args="old", extra_args="quiet")
        async with bootloader.booting(world, wanted) as found:
            assert found.kernel.read_bytes() == KERNEL
            assert found.ramdisk is not None
            assert found.ramdisk.read_bytes() == RAMDISK
            assert found.cmdline == "root=/dev/xvda1 ro old quiet"
            assert found.kernel.parent.stat().st_mode & 0o777 == 0o700
        assert list((tmp_path / "state/boot").iterdir()) == []
        async with bootloader.booting(world, machine(image(tmp_path / "b"), bootloader_args="--entry=1")) as found:
            assert found.kernel.read_bytes() == KERNEL[::-1]
            assert found.ramdisk is None
            assert found.cmdline == "single"

    asyncio.run(scenario())


@needs_pygrub
@needs_root
def test_real_pygrub_runs_without_privileges(tmp_path: Path) -> None:
    world = Host(tmp_path / "state", really)
    disk = image(tmp_path)
    os.chmod(disk.path, 0o600)

    async def scenario() -> None:
        async with bootloader.booting(world, machine(disk)) as found:
            assert found.kernel.read_bytes() == KERNEL
        assert any(word.startswith("--runas=") for word in world.asked[0].argv)
        assert not Path(world.asked[0].argv[-1]).exists()
        assert os.stat(disk.path).st_mode & 0o777 == 0o600

    asyncio.run(scenario())


@needs_pygrub
def test_a_disk_without_a_kernel_is_told_in_pygrubs_words(tmp_path: Path, ordinary: None) -> None:
    empty = tmp_path / "empty.img"
    empty.write_bytes(bytes(1 << 20))

    async def scenario() -> None:
        with pytest.raises(BootloaderError, match="Unable to find partition containing kernel"):
            async with bootloader.booting(Host(tmp_path / "state", really), machine(Local(path=str(empty)))):
                pytest.fail("there is nothing to boot")
        assert list((tmp_path / "state/boot").iterdir()) == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        ("/etc/passwd", "none of those it made"),
        ("{folder}/../../../etc/passwd", "none of those it made"),
        ("{folder}/link", "none of those it made"),
        ("{folder}/pipe", "none of those it made"),
        ("{folder}/missing", "none of those it made"),
        ("{folder}/\0", "none of those it made"),
        ("", "found no kernel"),
    ],
)
def test_a_malicious_answer_is_refused(tmp_path: Path, ordinary: None, kernel: str, why: str) -> None:
    async def answer(program: Program) -> Ended:
        folder = next(word.partition("=")[2] for word in program.argv if word.startswith("--output-directory="))
        os.symlink("/etc/passwd", f"{folder}/link")
        os.mkfifo(f"{folder}/pipe")
        return Ended(code=0, stdout=f"kernel {kernel.format(folder=folder)}\nargs x\n".encode())

    async def scenario() -> None:
        with pytest.raises(BootloaderError, match=why):
            async with bootloader.booting(Host(tmp_path, answer), machine(Local(path="/disk"))):
                pytest.fail("this must not be booted")
        assert list((tmp_path / "boot").iterdir()) == []

    asyncio.run(scenario())


def test_files_go_when_the_build_is_cancelled_or_fails(tmp_path: Path, ordinary: None) -> None:
    started = asyncio.Event()

    async def hangs(program: Program) -> Ended:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError

    async def boot() -> None:
        async with bootloader.booting(Host(tmp_path, hangs), machine(Local(path="/disk"))):
            pytest.fail("it never ends")

    async def scenario() -> None:
        booting = asyncio.create_task(boot())
        await started.wait()
        booting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await booting
        assert list((tmp_path / "boot").iterdir()) == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("wanted", "fault"),
    [
        (machine(), NoBootableDevice),
        (machine(Local(path="/d", format="qcow2")), BootloaderError),
        (machine(Local(path="/d"), bootloader="/bin/sh"), BootloaderError),
        (machine(Local(path="/d"), bootloader_args="--output=/etc/passwd"), BadRequest),
        (machine(Local(path="/d"), bootloader_args="--output-d=/etc"), BadRequest),
        (machine(Local(path="/d"), bootloader_args="/etc/shadow"), BadRequest),
        (machine(Local(path="/d"), bootloader_args="'"), BadRequest),
    ],
)
def test_what_cannot_be_booted_is_said_before_anything_runs(
    tmp_path: Path, wanted: Metadata, fault: type[Fault]
) -> None:
    async def never(program: Program) -> Ended:
        raise AssertionError(program)

    async def scenario() -> None:
        with pytest.raises(fault):
            async with bootloader.booting(Host(tmp_path, never), wanted):
                pytest.fail("this must not be booted")

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (Ended(code=1, stderr=b"Traceback\n  raise RuntimeError\nRuntimeError: no luck\x1b[2J\n"), r"no luck \[2J"),
        (Ended(code=0, stdout=b"\n", stderr=b"PermissionError: /device\n"), "PermissionError"),
        (Ended(signal=9), "said nothing"),
        (Ended(timed_out=True, signal=15), "did not end"),
    ],
)
def test_why_it_failed(tmp_path: Path, ordinary: None, ended: Ended, why: str) -> None:
    async def answer(program: Program) -> Ended:
        return ended

    async def scenario() -> None:
        with pytest.raises(BootloaderError, match=why):
            async with bootloader.booting(Host(tmp_path, answer), machine(Local(path="/disk"))):
                pytest.fail("this must not be booted")

    asyncio.run(scenario())


def test_answers_are_read() -> None:
    said = b"kernel /k\n\nnonsense\nramdisk /r\nargs a b  c\n\n"
    assert bootloader.parse("guest", said) == ("/k", "/r", "a b  c")
    assert bootloader.parse("guest", b"kernel /k\n") == ("/k", None, "")
    for bad in (b"kernel /k\nkernel /l\n", b"kernel /k\ninit /bin/sh\n", b"", b"args x\n", b"kernel \xff\n"):
        with pytest.raises(BootloaderError):
            bootloader.parse("guest", bad)


@given(
    st.one_of(
        st.binary(),
        st.lists(st.sampled_from(["kernel ", "ramdisk ", "args ", "/x", "\n", "\r"])).map(
            lambda parts: "".join(parts).encode()
        ),
    )
)
def test_no_answer_does_harm(untrusted: bytes) -> None:
    try:
        kernel, _, _ = bootloader.parse("guest", untrusted)
    except BootloaderError:
        return
    assert kernel
