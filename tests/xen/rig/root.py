# SPDX-License-Identifier: Apache-2.0
"""The dom0's root directory as an archive: Debian's own Xen, kernel and tools, nothing else.

Needs root, because the packages' own scripts run in a chroot; it mounts nothing and starts no service.
"""

import os
import shutil
import subprocess
from pathlib import Path

from tests.xen.rig.places import BUILD, DOM0, content_key, made, say

# What this machine needs to build and to run the rig.
HOST_PACKAGES = ("qemu-system-x86", "qemu-utils", "mmdebstrap", "e2fsprogs", "openssh-client", "util-linux")
# What dom0 needs to run Xen, guests of every kind, and this project's tests.
DOM0_PACKAGES = (DOM0 / "packages").read_text().split()
SUITE = "bookworm"
SOURCES = (
    f"deb http://deb.debian.org/debian {SUITE} main",
    f"deb http://deb.debian.org/debian {SUITE}-updates main",
    f"deb http://deb.debian.org/debian-security {SUITE}-security main",
)
# Modules that no virtual machine has a use for: half of the image.
NO_USE = (DOM0 / "modules-left-out").read_text().split()


def install_host_packages() -> None:
    """Debian packages that are missing here; only root may."""
    missing = [name for name in HOST_PACKAGES if not _installed(name)]
    if not missing:
        return
    if os.geteuid() != 0:
        raise SystemExit(f"the Xen rig needs these Debian packages: {' '.join(missing)}")
    say(f"installs {' '.join(missing)}")
    environ = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    subprocess.run(["apt-get", "update", "-qq"], check=True, env=environ, timeout=600)
    command = ["apt-get", "install", "-qq", "-y", "--no-install-recommends", *missing]
    subprocess.run(command, check=True, env=environ, timeout=1200, stdout=subprocess.DEVNULL)


def _installed(package: str) -> bool:
    query = ["dpkg-query", "-W", "-f=${db:Status-Status}", package]
    return subprocess.run(query, capture_output=True, text=True, timeout=60).stdout == "installed"


def versions() -> str:
    """The versions that Debian has to give at this moment, as far as this machine's package lists know them."""
    shown = subprocess.run(["apt-cache", "policy", *DOM0_PACKAGES], capture_output=True, text=True, timeout=60).stdout
    return "\n".join(line for line in shown.splitlines() if not line.startswith(" ") or "Candidate:" in line)


def key() -> str:
    return content_key([Path(__file__), *DOM0_PACKAGES, *NO_USE, versions()])


def archive() -> Path:
    """The root directory as a tar file, made when it is not there."""
    target = BUILD / f"root-{key()}.tar"
    with made(target) as unfinished:
        if unfinished is not None:
            say(f"dom0 from Debian packages ({SUITE}, Xen 4.17)")
            _make(unfinished)
    return target


def _make(target: Path) -> None:
    if os.geteuid() != 0:
        raise SystemExit("building the Xen rig needs root (mmdebstrap, chroot)")
    if shutil.which("mmdebstrap") is None:
        raise SystemExit("building the Xen rig needs mmdebstrap")
    useless = " ".join(f'"$1"/lib/modules/*/kernel/{path}' for path in NO_USE)
    log = target.with_suffix(".log")
    command = ["mmdebstrap", "--mode=root", "--variant=minbase", "--format=tar", '--aptopt=Acquire::Languages "none"']
    command += [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in ("man", "doc", "locale")]
    command += [f"--include={','.join(DOM0_PACKAGES)}", f"--customize-hook=rm -rf {useless}"]
    command += ['--customize-hook=chroot "$1" depmod "$(ls "$1"/lib/modules)"', SUITE, str(target), *SOURCES]
    environ = os.environ | {"INITRD": "No"}  # the rig has an initramfs of its own, Debian's takes long to make
    with log.open("w") as output:
        result = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, env=environ, timeout=900)
    if result.returncode != 0:
        raise SystemExit(f"mmdebstrap failed, see {log}:\n" + log.read_text()[-3000:])
    log.unlink()
