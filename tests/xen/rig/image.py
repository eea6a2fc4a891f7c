# SPDX-License-Identifier: Apache-2.0
"""dom0's disk image, and the kernel files that boot it: root directory, Python packages, guests, keys for ssh.

The project's Python dependencies are exactly those of requirements.lock and of the extra `xen` in pyproject.toml; they
are downloaded on this machine, because the chroot may not know how to reach an index.
"""

import gzip
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.xen import guests
from tests.xen.rig import guest_files, kernel, remote, root
from tests.xen.rig.places import BUILD, DOM0, RECIPE, ROOT, content_key, made, say

DISK_MIB = 3072
BOOT_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")
MADE_FROM = (RECIPE / "image.py", RECIPE / "kernel.py", RECIPE / "guest_files.py", Path(guests.__file__))


@dataclass(frozen=True)
class Image:
    """A folder with all that QEMU needs to boot the host."""

    folder: Path

    @property
    def disk(self) -> Path:
        return self.folder / "dom0.img"

    @property
    def xen(self) -> Path:
        return self.folder / "xen"

    @property
    def linux(self) -> Path:
        return self.folder / "vmlinux"

    @property
    def initramfs(self) -> Path:
        return self.folder / "initramfs"

    @property
    def user_key(self) -> Path:
        return self.folder / "user"

    @property
    def host_key(self) -> Path:
        return self.folder / "host.pub"


def extra_requirements() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return sorted(project.get("optional-dependencies", {}).get("xen", []))


def key() -> str:
    recipe = [*MADE_FROM, *sorted(path for path in DOM0.iterdir() if path.is_file())]
    return content_key([root.key(), *recipe, ROOT / "requirements.lock", *extra_requirements()])


def image() -> Image:
    """The image of this recipe, made when it is not there."""
    target = BUILD / f"image-{key()}"
    if not target.exists():
        archive, packages = root.archive(), wheels()
        with made(target) as unfinished:
            if unfinished is not None:
                _make(unfinished, archive, packages)
    return Image(target)


def wheels() -> Path:
    """The Python packages that go into dom0, as wheels."""
    lock = ROOT / "requirements.lock"
    target = BUILD / f"wheels-{content_key([lock, *extra_requirements()])}"
    with made(target) as unfinished:
        if unfinished is not None:
            say("downloads Python packages")
            unfinished.mkdir()
            pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
            pip += ["--only-binary", ":all:", "--python-version", "3.11", "--dest", str(unfinished)]
            for chosen in (["--require-hashes", "-r", str(lock)], extra_requirements()):
                _pip([*pip, "--no-deps", *chosen])
    return target


def _pip(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    if result.returncode != 0:
        raise SystemExit(f"pip failed: {' '.join(command)}\n{result.stdout}{result.stderr}")


def _make(folder: Path, archive: Path, packages: Path) -> None:
    tree = folder / "tree"
    tree.mkdir(parents=True)
    say("unpacks dom0")
    subprocess.run(["tar", "-C", str(tree), "-xf", str(archive)], check=True, timeout=300)
    (tree / "rig").mkdir()
    _keys(folder, tree / "rig" / "ssh")
    for name in ("init", "sshd_config"):
        shutil.copy(DOM0 / name, tree / "rig" / name)
    (tree / "rig" / "init").chmod(0o755)
    say("makes guests")
    guest_files.make(tree)
    say("installs this project's Python packages")
    _checkout(tree)
    _python(tree, packages)
    say("makes the disk")
    made_image = Image(folder)
    xen = sorted((tree / "boot").glob("xen-4.*-amd64.gz"))[-1]
    made_image.xen.write_bytes(gzip.decompress(xen.read_bytes()))
    shutil.copy(tree / guests.LINUX_ELF.relative_to("/"), made_image.linux)
    made_image.initramfs.write_bytes(_initramfs(tree))
    guest_files.ext4(made_image.disk, tree, size_mib=DISK_MIB)
    shutil.rmtree(tree)


def _keys(folder: Path, inside: Path) -> None:
    inside.mkdir(mode=0o700)
    for path in (folder / "user", inside / "host"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "xen-rig", "-f", str(path)]
        subprocess.run(command, check=True, timeout=60)
    shutil.copy(folder / "user.pub", inside / "user.pub")
    shutil.copy(inside / "host.pub", folder / "host.pub")


def _checkout(tree: Path) -> None:
    """This checkout as it is now: each run replaces it, only what has not changed since stays compiled."""
    target = tree / remote.CHECKOUT.relative_to("/")
    target.mkdir(parents=True)
    with tarfile.open(fileobj=remote.checkout_archive()) as sources:
        sources.extractall(target)


def _python(tree: Path, packages: Path) -> None:
    bound = tree / "rig" / "wheels"
    shutil.copytree(packages, bound)
    pip = [
        f"{remote.VENV}/bin/pip",
        "--quiet",
        "--disable-pip-version-check",
        "--no-cache-dir",
        "install",
        "--no-index",
    ]
    lock = f"{remote.CHECKOUT}/requirements.lock"
    _inside(tree, ["python3", "-m", "venv", str(remote.VENV)])
    _inside(tree, [*pip, "--find-links", "/rig/wheels", "--no-deps", "-r", lock])
    _inside(tree, [*pip, "--find-links", "/rig/wheels", "--no-deps", *extra_requirements()])
    _inside(tree, [*pip, "--no-deps", "--no-build-isolation", "--editable", str(remote.CHECKOUT)])
    compiled = [f"{remote.CHECKOUT}/{name}" for name in ("services", "shared", "clients", "tests")]
    _inside(tree, [f"{remote.VENV}/bin/python", "-m", "compileall", "-q", *compiled])
    shutil.rmtree(bound)


def _inside(tree: Path, command: list[str]) -> None:
    environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "LANG": "C.UTF-8"}
    result = subprocess.run(
        ["chroot", str(tree), *command], env=environ, capture_output=True, text=True, timeout=600, cwd="/"
    )
    if result.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed in dom0's root:\n{result.stdout}{result.stderr}")


def _initramfs(tree: Path) -> bytes:
    names = ("bin", "dev", "proc", "sys", "root", "modules")
    entries: dict[str, bytes | Path | None] = {name: None for name in names}
    entries["bin/busybox"] = (tree / "bin" / "busybox").read_bytes()
    entries["bin/sh"] = Path("busybox")
    entries["init"] = (DOM0 / "boot-init").read_bytes()
    modules = guest_files.modules_of(tree)
    order = kernel.load_order((modules / "modules.dep").read_text(), BOOT_MODULES)
    entries["order"] = "\n".join(os.path.basename(path) for path in order).encode() + b"\n"
    entries |= {f"modules/{os.path.basename(path)}": (modules / path).read_bytes() for path in order}
    return kernel.archive(entries)
