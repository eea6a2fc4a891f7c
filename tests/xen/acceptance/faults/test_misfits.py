# SPDX-License-Identifier: Apache-2.0
"""Machines that cannot be: each is refused by a name and in words, and nothing of it stays; XEN_FAULTS=all runs it."""

import gzip
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xen import guests
from tests.xen.acceptance.faults import stacked
from tests.xen.acceptance.faults.misfortunes import refused, registered, script
from tests.xen.acceptance.faults.stacked import VM, Stage, XenLab, machine
from xenops.errors import (
    BadRequest,
    FailedToStartEmulator,
    Fault,
    HypercallFailed,
    IoError,
    NotEnoughMemory,
    ProgramFailed,
    Unimplemented,
)
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.network import Bridge
from xenops.types.vbd import Vbd
from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, SchedulerParams
from xenopsd.store.machine import Device, Machine

pytestmark = pytest.mark.skipif(os.environ.get("XEN_FAULTS") != "all", reason="XEN_FAULTS=all runs it")
ELF = str(guests.LINUX_ELF)
TEXT = b"text" * 5000


@pytest.fixture(scope="module")
def at(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """One stack for all of it."""
    yield from stacked.stage(tmp_path_factory.mktemp("misfits"))


def bzimage(payload: bytes) -> bytes:
    """As Linux's boot protocol 2.15 lays it out, with two sectors of set-up code."""
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = (0x020F).to_bytes(2, "little")
    setup[0x24C:0x250] = len(payload).to_bytes(4, "little")
    return bytes(setup) + payload


def put(folder: Path, data: bytes, size: int = 0) -> str:
    path = folder / "file"
    with path.open("wb") as file:
        file.write(data)
        file.truncate(max(size, len(data)))
    return str(path)


def orphan(folder: Path) -> str:
    """An image whose backing file is gone."""
    path, backing = folder / "child.qcow2", folder / "parent.img"
    backing.write_bytes(bytes(MIB))
    options = ["-q", "-f", "qcow2", "-F", "raw", "-b", str(backing)]
    subprocess.run(["qemu-img", "create", *options, str(path)], check=True, timeout=60)
    backing.unlink()
    return str(path)


def booting(kernel: str, **words: Any) -> Machine:
    return machine("linux", ty=Pv(boot=Direct(kernel=kernel, **words)))


def packed(folder: Path, payload: bytes) -> Machine:
    return booting(put(folder, bzimage(payload)))


def of_type(kind: str, ty: BuilderInfo) -> Machine:
    return machine(kind, ty=ty)


def changed(kind: str, **changes: Any) -> Machine:
    its = machine(kind)
    return Machine(msgspec.structs.replace(its.vm, **changes), 1, its.devices)


def on_disk(kind: str, path: str, format: str) -> Machine:
    position = "hda" if kind == "hvm" else "xvda"
    return machine(kind, Vbd(id=DeviceId(vm=VM, dev="odd"), position=position, backend=Local(path=path, format=format)))


def nic(**changes: Any) -> Machine:
    its = machine("pv")
    record = msgspec.structs.replace(its.devices[Kind.VIF]["0"].record, **changes)
    return Machine(its.vm, 1, {**its.devices, Kind.VIF: {"0": Device(record)}})


MISFITS: dict[str, tuple[Callable[[Path], Machine], type[Fault], str]] = {
    "a long command line": (lambda _: booting(ELF, cmdline="y" * 5000), BadRequest, "5000 bytes long; Xen takes 1023"),
    "that of a PVH guest": (
        lambda _: of_type("linux", Pvh(boot=Direct(kernel=ELF, cmdline="y" * 1024))),
        BadRequest,
        "1024 bytes long; Xen takes 1023",
    ),
    "no ramdisk": (lambda _: booting(ELF, ramdisk="/nowhere/initrd"), IoError, "/nowhere/initrd"),
    "a folder as ramdisk": (lambda _: booting(ELF, ramdisk="/etc"), IoError, "no such file for the ramdisk"),
    "a huge ramdisk": (
        lambda folder: booting(ELF, ramdisk=put(folder, b"", 300 << 20)),
        IoError,
        "with its ramdisk it does not fit into the 128 MiB of memory",
    ),
    "gzip of nothing": (lambda folder: packed(folder, b"\x1f\x8b" + os.urandom(5000)), IoError, "is damaged"),
    "gzip of garbage": (lambda folder: packed(folder, gzip.compress(TEXT)), IoError, "is no ELF image"),
    "half a gzip": (lambda folder: packed(folder, gzip.compress(os.urandom(5000))[:3000]), IoError, "ends too early"),
    "gzip of half an ELF": (
        lambda folder: packed(folder, gzip.compress(Path(ELF).read_bytes()[:5000])),
        IoError,
        "no kernel that Xen can boot",
    ),
    "xz": (lambda folder: packed(folder, b"\xfd7zXZ\0" + os.urandom(5000)), IoError, "is damaged"),
    "zstd": (lambda folder: packed(folder, b"\x28\xb5\x2f\xfd" + TEXT + b"\0\0\1\0"), IoError, "is damaged"),
    "lz4": (lambda folder: packed(folder, b"\x02\x21\x4c\x18" + TEXT), IoError, "no kernel that Xen can boot"),
    "lzo": (lambda folder: packed(folder, b"\x89LZO" + TEXT), IoError, "no kernel that Xen can boot"),
    "a program": (lambda _: booting("/bin/true"), IoError, "/bin/true"),
    "a PV kernel for PVH": (
        lambda _: of_type("pv", Pvh(boot=Direct(kernel=str(guests.GRUB_PV)))),
        IoError,
        "not capable of booting inside a HVM container",
    ),
    "a PVH kernel for PV": (
        lambda _: of_type("pv", Pv(boot=Direct(kernel=str(guests.GRUB_PVH)))),
        IoError,
        "no kernel that Xen can boot",
    ),
    "no memory to speak of": (lambda _: machine("linux", memory_mib=1), IoError, "not fit into the 1 MiB of memory"),
    "that of a PVH guest too": (lambda _: machine("pvh", memory_mib=1), IoError, "not fit into the 1 MiB of memory"),
    "less than its card takes": (lambda _: machine("hvm", memory_mib=4), BadRequest, "the graphics card takes 4 MiB"),
    "a card of 4 GiB": (lambda _: of_type("hvm", Hvm(video_mib=4096)), BadRequest, "the graphics card takes 4096 MiB"),
    "absurd memory": (lambda _: machine("pv", memory_mib=1 << 32), NotEnoughMemory, "are free on this host"),
    "many vCPUs": (lambda _: changed("pvh", vcpus=129, vcpu_max=129), BadRequest, "is 129; Xen gives 128 at most"),
    "no such CPU": (
        lambda _: changed("pv", scheduler_params=SchedulerParams(affinity=[[500]])),
        HypercallFailed,
        "there is no processor or node 500",
    ),
    "no qcow2": (lambda folder: on_disk("pv", put(folder, TEXT), "qcow2"), IoError, "not in qcow2 format"),
    "no vhd": (lambda folder: on_disk("pv", put(folder, TEXT), "vhd"), IoError, "failed to create"),
    "no backing file": (lambda folder: on_disk("pv", orphan(folder), "qcow2"), IoError, "parent.img"),
    "no qcow2, emulated": (
        lambda folder: on_disk("hvm", put(folder, TEXT), "qcow2"),
        FailedToStartEmulator,
        "not in qcow2 format",
    ),
    "no known format": (lambda folder: on_disk("pv", put(folder, TEXT), "zip"), BadRequest, "known are raw, qcow2"),
    "a script that fails": (
        lambda folder: nic(script=script(folder, 'echo "no link" >&2; exit 1')),
        ProgramFailed,
        "ended with code 1; its last words: no link",
    ),
    "no bridge": (lambda _: nic(backend=Bridge(bridge="nowhere")), IoError, "there is no such bridge"),
    "no bridge's name": (lambda _: nic(backend=Bridge(bridge="a" * 40)), IoError, "no interface's name"),
    "no boot order": (lambda _: of_type("hvm", Hvm(boot_order="xyz")), BadRequest, "boot_order"),
    "a program as serial port": (lambda _: of_type("hvm", Hvm(serial="exec:/bin/sh")), BadRequest, "serial"),
    "no timer mode": (lambda _: changed("hvm", platformdata={"timer_mode": "99"}), BadRequest, "no number up to 3"),
    "perhaps": (lambda _: changed("pvh", platformdata={"hap": "perhaps"}), BadRequest, "neither true nor false"),
    "counters": (lambda _: changed("pv", platformdata={"vpmu": "1"}), BadRequest, "performance counters"),
    "shadowed pages": (lambda _: of_type("hvm", Hvm(hap=False)), BadRequest, "without shadow paging"),
    "a stub domain": (lambda _: of_type("hvm", Hvm(qemu_stubdom=True)), Unimplemented, "qemu_stubdom"),
    "a TPM": (lambda _: of_type("hvm", Hvm(tpm="vtpm")), Unimplemented, "a TPM"),
    "long data for the guest": (lambda _: changed("pv", xsdata={"vm-data/x": "y" * 10000}), IoError, "vm-data/x"),
    "no key of xenstore": (lambda _: changed("pv", xsdata={"vm-data/a b\n": "y"}), IoError, "vm-data/a b"),
}


@pytest.mark.parametrize("what", MISFITS)
def test_it_is_refused(what: str, at: Stage, tmp_path: Path) -> None:
    make, kind, words = MISFITS[what]

    async def story(lab: XenLab) -> None:
        its = make(tmp_path)
        async with registered(lab, its):
            await refused(lab, kind, its, words)

    at.tell(story(at.lab), tmp_path)
