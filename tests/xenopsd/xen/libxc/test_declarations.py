# SPDX-License-Identifier: Apache-2.0
"""What is declared of libxc is what its own headers say, and what is loaded is what was declared."""

import re
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import cffi
import pytest

from xenopsd.backends.xen import declarations
from xenopsd.backends.xen.declarations import RELEASES

FOLDER = Path(declarations.__file__).parent
HEADERS = sorted(FOLDER.glob("v*.h"))
INCLUDES = """
#define __XEN_TOOLS__ 1
#include <stdint.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <xenctrl.h>
#include <xenguest.h>
#include <xen/hvm/hvm_info_table.h>
size_t ZSTD_decompress(void *, size_t, const void *, size_t);
unsigned ZSTD_isError(size_t);
"""


def test_every_release_has_its_declarations() -> None:
    assert [f"v{release.name.replace('.', '_')}" for release in RELEASES] == [header.stem for header in HEADERS]


def test_the_modules_are_made_of_the_declarations(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "xenopsd.backends.xen.declarations", str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=50)
    for header in HEADERS:
        name = f"{header.stem}.py"
        assert (tmp_path / name).read_text() == (FOLDER / name).read_text(), "make it anew"


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_sizes_and_offsets_are_those_of_the_real_headers(release: declarations.Release, tmp_path: Path) -> None:
    if shutil.which("gcc") is None or not _installed(release):
        pytest.skip(f"needs gcc and the headers of Xen {release.name} (libxen-dev)")
    text = (FOLDER / f"v{release.name.replace('.', '_')}.h").read_text()
    builder = cffi.FFI()
    builder.cdef(text)
    builder.set_source(
        "_compiled_declarations",
        INCLUDES,
        libraries=["xenctrl", "xenguest"],
        extra_compile_args=["-w", "-O0"],
        extra_link_args=["-Wl,--allow-shlib-undefined", "-Wl,--unresolved-symbols=ignore-all"],
    )
    builder.compile(str(tmp_path))
    sys.path.insert(0, str(tmp_path))
    try:
        compiled = import_module("_compiled_declarations").ffi
    finally:
        sys.path.remove(str(tmp_path))
    structs = re.findall(r"^struct (\w+) \{", text, re.MULTILINE)
    assert len(structs) > 15
    for name in structs:
        ours, theirs = release.ffi.typeof(f"struct {name}"), compiled.typeof(f"struct {name}")
        assert _layout(release.ffi, ours) == _layout(compiled, theirs), name


def _layout(ffi: "cffi.FFI", struct: "cffi.FFI.CType") -> tuple[int, list[tuple[str, int, int]]]:
    return ffi.sizeof(struct), [(name, field.offset, ffi.sizeof(field.type)) for name, field in struct.fields]


def _installed(release: declarations.Release) -> bool:
    header = Path("/usr/include/xenctrl.h")
    return header.exists() and any(Path("/usr/lib").glob(f"*/libxenctrl.so.{release.name}"))


@pytest.mark.parametrize("release", RELEASES, ids=lambda release: release.name)
def test_every_function_is_in_the_library(release: declarations.Release) -> None:
    try:
        library = release.ffi.dlopen(release.soname)
    except OSError:
        pytest.skip(f"needs {release.soname}")
    text = (FOLDER / f"v{release.name.replace('.', '_')}.h").read_text()
    functions = re.findall(r"\b((?:xc_|ZSTD_)\w+)\(", text)
    assert len(functions) > 70
    assert [name for name in functions if not hasattr(library, name)] == []
