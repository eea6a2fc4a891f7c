# SPDX-License-Identifier: Apache-2.0
"""pygrub: finds the kernel and the ramdisk in a guest's own disk, and brings them out for the builder.

The disk is the guest's, and so is all that pygrub reads: it runs as a user of its own, one a domain, in a root of its own
(`--runas`), and sees of this host nothing but the disk, through a device node that is made for it and that it may only
read. What it answers is untrusted: a path counts only when it is a file in the folder that was made for this guest.
The files are deleted when the guest is built, or is not.
"""

import asyncio
import logging
import os
import shlex
import shutil
import stat
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from xenops.errors import BadRequest, BootloaderError, IoError, NoBootableDevice, ProgramFailed
from xenops.types.device_number import DeviceNumber
from xenops.types.disk import Disk, Local
from xenops.types.metadata import Metadata
from xenops.types.process import Ended, Program
from xenops.types.vbd import VbdType
from xenops.types.vm import Hvm, Indirect
from xenopsd.backends.port import RunProgram
from xenopsd.backends.xen.devices import loop

log = logging.getLogger(__name__)

RUN_S = 60.0
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_NODE = "xenopsd-boot-"  # and the domain, below /dev: other file systems may not allow device nodes
_FIRST_USER = 0x7E000000  # and the domain: nobody else's
_WORDS = 400
# What a record may tell pygrub; that of its options which name files of the host is not among them.
_ARGUMENTS = ("--entry=", "--kernel=", "--ramdisk=", "--args=", "--offset=")


class Host(Protocol):
    """The world, as far as boot loaders concern it."""

    @property
    def domains(self) -> "Guests":
        """Which domains are ours."""

    @property
    def run_program(self) -> RunProgram:
        """forkexecd."""

    @property
    def programs(self) -> Mapping[str, Path]:
        """The helper programs that were found."""

    @property
    def state_dir(self) -> Path:
        """A folder of ours."""


class Guests(Protocol):
    """Which domains are ours."""

    def require(self, vm: str) -> int:
        """The live domain of a machine. Raises `DoesNotExist("domain", id)`."""


@dataclass(frozen=True)
class Found:
    """What a boot loader found."""

    kernel: Path
    ramdisk: Path | None
    cmdline: str


@asynccontextmanager
async def booting(world: Host, machine: Metadata, *, devices: Path = Path("/dev")) -> AsyncIterator[Found]:
    """The kernel in a guest's disk, for as long as it is needed. Raises `BootloaderError`, `NoBootableDevice`, `IoError`."""
    vm = machine.vm
    if isinstance(vm.ty, Hvm) or not isinstance(vm.ty.boot, Indirect):
        raise BadRequest("vm.ty.boot", "this guest is not booted by a boot loader")
    boot = vm.ty.boot
    program, disk = _program(world, vm.id, boot), _disk(machine, boot)
    arguments = _arguments(boot)
    domid = world.domains.require(vm.id)
    folder = await asyncio.to_thread(_emptied, world.state_dir / "boot" / vm.id)
    try:
        async with _readable(disk, devices / f"{_NODE}{domid}", _FIRST_USER + domid) as (path, runas):
            options = ["-q", "--output-format=simple", f"--output-directory={folder}", *runas]
            ended = await _run(world, vm.id, [str(program), *options, *arguments, path])
        kernel, ramdisk, told = parse(vm.id, ended.stdout)
        cmdline = " ".join(part for part in (told, boot.legacy_args, boot.extra_args) if part)
        yield Found(_ours(vm.id, folder, kernel), _ours(vm.id, folder, ramdisk) if ramdisk else None, cmdline)
    finally:
        await asyncio.shield(asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True))


def tidy(state_dir: Path, *, devices: Path = Path("/dev")) -> None:
    """Take away what an earlier life of ours left when it was killed while a boot loader ran."""
    shutil.rmtree(state_dir / "boot", ignore_errors=True)
    for node in devices.glob(f"{_NODE}*"):
        node.unlink(missing_ok=True)


def parse(id: str, untrusted: bytes) -> tuple[str, str | None, str]:
    """The kernel, the ramdisk and the command line that pygrub names. Raises `BootloaderError`."""
    found: dict[str, str] = {}
    try:
        lines = untrusted.decode().splitlines()
    except UnicodeDecodeError:
        raise BootloaderError(id, "its answer is no text") from None
    for line in lines:
        key, blank, value = line.partition(" ")
        if not blank:
            continue
        if key not in ("kernel", "ramdisk", "args") or key in found:
            raise BootloaderError(id, f"its answer has a line that is not understood: {line!r:.200}")
        found[key] = value.strip()
    if not found.get("kernel"):
        raise BootloaderError(id, "it found no kernel in the disk")
    return found["kernel"], found.get("ramdisk") or None, found.get("args", "")


async def _run(world: Host, id: str, argv: list[str]) -> Ended:
    """Raises `BootloaderError`. What it answers counts, not its exit status: with --runas that says little."""
    environment = {"PATH": _PATH, "LC_ALL": "C.UTF-8"}
    try:
        ended = await world.run_program(Program(argv=argv, env=environment, timeout_s=RUN_S))
    except ProgramFailed as fault:
        raise BootloaderError(id, str(fault)) from fault
    if ended.timed_out:
        raise BootloaderError(id, f"it did not end within {RUN_S:g} s")
    if ended.code != 0 or not ended.stdout.strip():
        raise BootloaderError(id, _reason(ended))
    return ended


def _reason(ended: Ended) -> str:
    """What pygrub raised, or its last words."""
    words = ended.stderr.decode("utf-8", "replace").strip()
    _, raised, reason = words.rpartition("RuntimeError: ")
    if not raised:
        reason = words.rpartition("\n")[2] or "it found nothing and said nothing"
    return "".join(c if c.isprintable() else " " for c in reason)[:_WORDS].strip()


def _program(world: Host, id: str, boot: Indirect) -> Path:
    if Path(boot.bootloader).name != "pygrub":
        raise BootloaderError(id, f"{boot.bootloader!r:.80} is not known here; pygrub is")
    program = world.programs.get("pygrub")
    if program is None:
        raise BootloaderError(id, "there is no pygrub on this host; apt install xen-utils-4.17")
    return program


def _arguments(boot: Indirect) -> list[str]:
    try:
        words = shlex.split(boot.bootloader_args)
    except ValueError as error:
        raise BadRequest("vm.ty.boot.bootloader_args", str(error)) from None
    for word in words:
        if not word.startswith(_ARGUMENTS):
            raise BadRequest(
                "vm.ty.boot.bootloader_args", f"{word!r:.80}: pygrub may be told {', '.join(_ARGUMENTS)} and no more"
            )
    return words


def _disk(machine: Metadata, boot: Indirect) -> str:
    """The guest's first disk, unless the record names another one. Raises `NoBootableDevice`, `BootloaderError`."""
    disks: list[Disk] = boot.devices[:1] or [disk for _, disk in sorted(_disks(machine), key=lambda pair: pair[0])]
    if not disks:
        raise NoBootableDevice(machine.vm.id)
    disk = disks[0]
    if not isinstance(disk, Local) or disk.format != "raw":
        raise BootloaderError(machine.vm.id, "it can read a raw file or block device only; the first disk is none")
    return disk.path


def _disks(machine: Metadata) -> Iterator[tuple[int, Disk]]:
    for vbd in machine.vbds:
        if vbd.ty is VbdType.DISK and vbd.backend and vbd.position:
            with suppress(ValueError):
                yield DeviceNumber.parse(vbd.position).disk, vbd.backend


@asynccontextmanager
async def _readable(disk: str, node: Path, user: int) -> AsyncIterator[tuple[str, list[str]]]:
    """Where pygrub finds the disk, and as whom. Who is not root has no rights to give up."""
    if os.geteuid() != 0:
        yield disk, []
        return
    held: loop.Loop | None = None
    try:
        found = await asyncio.to_thread(os.stat, disk)
        if not stat.S_ISBLK(found.st_mode):
            held = await loop.attach(disk, read_only=True)
            found = await asyncio.to_thread(os.stat, held.path)
        with _node(node, found.st_rdev, user):
            yield str(node), [f"--runas={user}"]
    except OSError as error:
        raise IoError(str(error.filename or disk), error.strerror or str(error)) from error
    finally:
        if held is not None:
            held.close()


@contextmanager
def _node(node: Path, device: int, user: int) -> Iterator[None]:
    """A device node that one user may read."""
    node.unlink(missing_ok=True)
    os.mknod(node, stat.S_IFBLK | 0o400, device)
    try:
        os.chown(node, user, -1)
        yield
    finally:
        node.unlink(missing_ok=True)


def _emptied(folder: Path) -> Path:
    """An empty folder that only we may look into."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True)
    return folder.resolve()


def _ours(id: str, folder: Path, untrusted: str) -> Path:
    """Raises `BootloaderError` for a path that leads out of the folder, or to anything but a file."""
    try:
        path = Path(untrusted)
        if path.parent == folder and path.resolve(strict=True) == path and stat.S_ISREG(path.lstat().st_mode):
            return path
    except (OSError, ValueError):
        pass
    raise BootloaderError(id, f"it names a file that is none of those it made: {untrusted!r:.200}")
