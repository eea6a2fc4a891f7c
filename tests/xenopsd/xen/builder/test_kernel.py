# SPDX-License-Identifier: Apache-2.0
"""Kernels are unpacked once, found again by file and by content, and what is none is told."""

import bz2
import gzip
import lzma
import os
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import IoError
from xenopsd.backends.xen.builder import kernel
from xenopsd.backends.xen.builder.kernel import Kernels, NotAKernel

VMLINUX = kernel.ELF + bytes(range(256)) * 64


def no_zstd(packed: bytes, size: int) -> bytes:
    raise ValueError("no zstd here")


def bzimage(payload: bytes) -> bytes:
    """As Linux's boot protocol 2.15 lays it out, with two sectors of set-up code."""
    setup = bytearray(3 * 512)
    setup[0x1F1] = 2
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    setup[0x206:0x208] = (0x020F).to_bytes(2, "little")
    setup[0x248:0x24C] = (100).to_bytes(4, "little")
    setup[0x24C:0x250] = len(payload).to_bytes(4, "little")
    return bytes(setup) + bytes(100) + payload + b"after"


PACKINGS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, format=lzma.FORMAT_XZ),
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
    "bzip2": bz2.compress,
    "none": lambda data: data,
}


@pytest.mark.parametrize("packing", PACKINGS)
def test_a_kernel_is_unpacked_and_found_again(packing: str, tmp_path: Path) -> None:
    boot, cache = tmp_path / "vmlinuz", tmp_path / "cache"
    boot.write_bytes(bzimage(PACKINGS[packing](VMLINUX) + len(VMLINUX).to_bytes(4, "little")))
    kernels = Kernels(cache, no_zstd)
    elf = kernels.elf(boot)
    assert elf.read_bytes().startswith(VMLINUX)
    inode = elf.stat().st_ino
    assert Kernels(cache, no_zstd).elf(boot).stat().st_ino == inode, "known by its file"
    copy = Path(shutil.copy(boot, tmp_path / "copy"))
    assert kernels.elf(copy).stat().st_ino == inode, "known by its content"
    assert bytes(kernels.mapped(boot)[: len(VMLINUX)]) == VMLINUX
    boot.write_bytes(bzimage(PACKINGS[packing](kernel.ELF + b"another")))
    assert kernels.elf(boot).read_bytes().startswith(kernel.ELF + b"another"), "a changed file is another kernel"


def test_an_elf_image_is_taken_as_it_is(tmp_path: Path) -> None:
    boot = tmp_path / "vmlinux"
    boot.write_bytes(VMLINUX)
    assert Kernels(tmp_path / "cache", no_zstd).elf(boot) == boot
    assert not (tmp_path / "cache").exists()


def test_zstd_is_unpacked_by_the_library_that_libxenguest_brings(tmp_path: Path) -> None:
    if shutil.which("zstd") is None:
        pytest.skip("needs the zstd program")
    libxc = pytest.importorskip("xenopsd.backends.xen.libxc")
    packed = subprocess.run(["zstd", "-c"], input=VMLINUX, capture_output=True, check=True, timeout=20).stdout
    try:
        assert libxc.unzstd(packed, len(VMLINUX)) == VMLINUX
    except Exception as fault:  # noqa: BLE001
        pytest.skip(f"needs libxenguest: {fault}")
    boot = tmp_path / "vmlinuz"
    boot.write_bytes(bzimage(packed + len(VMLINUX).to_bytes(4, "little")))
    assert Kernels(tmp_path / "cache", libxc.unzstd).elf(boot).read_bytes() == VMLINUX
    with pytest.raises(ValueError, match="zstd"):
        libxc.unzstd(packed[:-9], len(VMLINUX))


@pytest.mark.parametrize("magic", [kernel.LZO, kernel.LZ4])
def test_what_cannot_be_unpacked_here_is_left_to_libxc(magic: bytes, tmp_path: Path) -> None:
    boot = tmp_path / "vmlinuz"
    boot.write_bytes(bzimage(magic + bytes(50)))
    assert Kernels(tmp_path / "cache", no_zstd).elf(boot) == boot


NO_KERNELS: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "no kernel"),
    "text": (b"#!/bin/sh\n" * 100, "no kernel"),
    "old": (bzimage(b"")[:0x206] + b"\x03\x02" + bzimage(b"")[0x208:], "boot protocol 2.03"),
    "cut short": (bzimage(gzip.compress(VMLINUX))[:1700], "cut short"),
    "damaged": (bzimage(lzma.compress(VMLINUX)[:-40] + bytes(40)), "damaged"),
    "packed text": (bzimage(gzip.compress(b"text")), "no ELF image"),
    "a gzip of text": (gzip.compress(b"text" * 400), "no ELF image"),
    "packed somehow": (bzimage(b"RAR!" + bytes(60)), "packing is not known"),
    "too large": (bzimage(kernel.ZSTD + bytes(40) + b"\xff\xff\xff\xff"), "damaged"),
}


@pytest.mark.parametrize("what", NO_KERNELS)
def test_what_is_no_kernel_is_told(what: str, tmp_path: Path) -> None:
    untrusted, words = NO_KERNELS[what]
    boot = tmp_path / "boot"
    boot.write_bytes(untrusted)
    with pytest.raises(IoError, match=words) as caught:
        Kernels(tmp_path / "cache", no_zstd).elf(boot)
    assert caught.value.path == str(boot)


def test_no_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="No such file"):
        Kernels(tmp_path / "cache", no_zstd).elf(tmp_path / "nothing")


@given(st.binary(max_size=400), st.booleans())
def test_no_file_crashes_it(untrusted: bytes, framed: bool) -> None:
    try:
        image = kernel.unpack(bzimage(untrusted) if framed else untrusted, no_zstd)
    except NotAKernel:
        return
    assert image is None or image.startswith(kernel.ELF)


def test_the_cache_is_bounded_and_keeps_what_is_used(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    kernels = Kernels(cache, no_zstd)
    first = tmp_path / "first"
    first.write_bytes(bzimage(gzip.compress(VMLINUX + b"first")))
    kept = kernels.elf(first)
    for number in range(kernel.KEPT_KERNELS + 3):
        boot = tmp_path / f"boot-{number}"
        boot.write_bytes(bzimage(gzip.compress(VMLINUX + bytes([number]))))
        kernels.elf(boot)
        assert kernels.elf(first) == kept
    assert len(list(cache.glob("*.elf"))) <= kernel.KEPT_KERNELS + 1
    assert all(seen.exists() for seen in cache.glob("*.seen"))
    assert not list(cache.glob("*.new"))


def test_of_many_at_once_one_unpacks(tmp_path: Path) -> None:
    boot = tmp_path / "vmlinuz"
    boot.write_bytes(bzimage(gzip.compress(VMLINUX)))
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda: found.append(Kernels(tmp_path / "cache", no_zstd).elf(boot).stat().st_ino))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(found) == 8
    assert len(set(found)) == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    boot = tmp_path / "vmlinuz"
    boot.write_bytes(bzimage(gzip.compress(VMLINUX)))

    def full(path: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert Kernels(tmp_path / "cache", no_zstd).elf(boot) == boot
    assert os.listdir(tmp_path / "cache") == ["lock"]
