# SPDX-License-Identifier: Apache-2.0
"""The helper programs and files that the host must have: the table, and the scan at start-up.

Every row is a configuration key of the same name. All that is missing is reported at once, with the key to set, the
places that were searched and the Debian package to install.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Resource:
    """One helper; an absolute default must exist there, a bare name is searched."""

    key: str
    what: str
    default: str
    package: str
    backends: tuple[str, ...]
    essential: bool = True
    executable: bool = True


RESOURCES: tuple[Resource, ...] = (
    Resource("hvmloader", "firmware loader of HVM guests", "hvmloader", "xen-utils-common", ("xen",), False, False),
    Resource("pygrub", "boot loader of PV guests", "pygrub", "xen-utils-4.17", ("xen",), False),
    Resource("qemu", "device model of HVM guests", "xen-qemu-system-i386", "qemu-system-xen", ("xen",), False),
    Resource("seabios", "firmware of HVM guests", "bios-256k.bin", "seabios", ("xen",), False, False),
)


@dataclass(frozen=True)
class Missing:
    """A helper that was not found, and where it was looked for."""

    resource: Resource
    wanted: str
    searched: tuple[str, ...]


def scan(backend: str, chosen: Mapping[str, str], search: Sequence[Path]) -> tuple[dict[str, Path], list[Missing]]:
    """Find the helpers that a backend needs; what was found by key, and what was not."""
    found: dict[str, Path] = {}
    missing: list[Missing] = []
    for resource in RESOURCES:
        if backend not in resource.backends:
            continue
        wanted = chosen.get(resource.key) or resource.default
        places = [Path(wanted)] if Path(wanted).is_absolute() else [folder / wanted for folder in search]
        hit = next((path for path in places if _usable(path, resource)), None)
        if hit is not None:
            found[resource.key] = hit
        else:
            missing.append(Missing(resource, wanted, tuple(str(place) for place in places)))
    return found, missing


def complain(missing: Sequence[Missing], *, program: str, file: str) -> str:
    """What to tell the operator, a paragraph a helper."""
    lines = []
    for it in missing:
        need = "needed" if it.resource.essential else "optional"
        lines.append(
            f"{it.wanted} ({it.resource.what}, {need}) was not found; searched: {', '.join(it.searched) or 'nowhere'}\n"
            f"  install it:  apt install {it.resource.package}\n"
            f"  or say where it is:  {it.resource.key} = PATH in {file}, or --{it.resource.key}=PATH"
        )
    return f"{program}: {len(missing)} helper(s) missing\n" + "\n".join(lines)


def search_path(environ: Mapping[str, str], extra: Sequence[str]) -> list[Path]:
    """Where bare names are looked for: PATH, what is configured, and where Debian keeps Xen's programs."""
    return [
        Path(p)
        for p in (
            *environ.get("PATH", os.defpath).split(":"),
            *extra,
            "/usr/libexec",
            "/usr/lib/xen-4.17/bin",
            "/usr/lib/xen-4.17/boot",
            "/usr/share/seabios",
        )
        if p
    ]


def _usable(path: Path, resource: Resource) -> bool:
    return path.is_file() and os.access(path, os.X_OK if resource.executable else os.R_OK)
