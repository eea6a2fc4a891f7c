# SPDX-License-Identifier: Apache-2.0
"""Commands and files into a running dom0, over ssh to one forwarded port of the loopback address.

One connection is kept open and shared: a first handshake costs seconds of emulated cryptography, a further command a
fifth of a second.
"""

import io
import shlex
import subprocess
import tarfile
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from tests.xen.rig.places import ROOT

CHECKOUT = PurePosixPath("/rig/checkout")
VENV = PurePosixPath("/rig/venv")
RESULTS = PurePosixPath("/rig/results")


def ssh_config(*, port: int, user_key: Path, host_key: Path, socket: Path) -> str:
    """What ssh has to know of one machine; `ssh -F <file> dom0` then works from anywhere."""
    lines = [
        "Host dom0",
        "  HostName 127.0.0.1",
        f"  Port {port}",
        "  User root",
        f"  IdentityFile {user_key}",
        "  IdentitiesOnly yes",
        "  HostKeyAlias xen-rig",
        f"  UserKnownHostsFile {host_key.with_name('known_hosts')}",
        "  StrictHostKeyChecking yes",
        "  PreferredAuthentications publickey",
        "  ConnectTimeout 60",
        "  ServerAliveInterval 60",
        "  LogLevel ERROR",
        "  ControlMaster auto",
        f"  ControlPath {socket}",
        "  ControlPersist 2h",
        "  Ciphers chacha20-poly1305@openssh.com",
        "  KexAlgorithms curve25519-sha256",
    ]
    return "\n".join(lines) + "\n"


class CommandError(Exception):
    """A command in dom0 did not end well; what it said is told."""


@dataclass(frozen=True)
class Shell:
    """Commands in one dom0."""

    config: Path

    def command(self, command: str | Sequence[str], *options: str) -> list[str]:
        line = command if isinstance(command, str) else shlex.join(command)
        return ["ssh", "-F", str(self.config), *options, "dom0", line]

    def run(
        self,
        command: str | Sequence[str],
        *,
        timeout_s: float = 120,
        stdin: IO[bytes] | None = None,
        check: bool = True,
    ) -> subprocess.CompletedProcess[str]:
        """Runs to its end; text out, both streams apart. Checked, a status other than 0 is a CommandError."""
        words = self.command(command, "-T")
        given = stdin or subprocess.DEVNULL
        done = subprocess.run(words, stdin=given, capture_output=True, text=True, timeout=timeout_s)
        if check and done.returncode != 0:
            raise CommandError(f"in dom0, status {done.returncode}: {command}\n{done.stdout}{done.stderr}")
        return done

    def put_checkout(self) -> None:
        """This checkout's files, and none that it no longer has; compiled files of unchanged sources stay."""
        directory = shlex.quote(str(CHECKOUT))
        with checkout_archive() as sources:
            receive = f"cd {directory} && find . -type f ! -name '*.pyc' -delete && tar -xf -"
            self.run(receive, stdin=sources, timeout_s=300)

    def get_results(self, target: Path) -> None:
        target.mkdir(parents=True, exist_ok=True)
        command = self.command(f"tar -C {RESULTS} -cf - .", "-T")
        sent = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=300, check=True)
        with tarfile.open(fileobj=io.BytesIO(sent.stdout)) as results:
            results.extractall(target, filter="data")

    def close(self) -> None:
        """Ends the shared connection."""
        command = ["ssh", "-F", str(self.config), "-O", "exit", "dom0"]
        subprocess.run(command, capture_output=True, timeout=30, check=False)


def checkout_files() -> list[str]:
    """What git has or would take of this checkout, as far as it is there."""
    command = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    return sorted(name for name in set(listed.split("\0")) if name and (ROOT / name).is_file())


def checkout_archive() -> IO[bytes]:
    """Those files as a tar, owned by root, with their times: Python's compiled files go by them."""
    packed = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    with tarfile.open(fileobj=packed, mode="w") as target:
        for name in checkout_files():
            target.add(ROOT / name, name, recursive=False, filter=_owned_by_root)
    packed.seek(0)
    return packed


def _owned_by_root(member: tarfile.TarInfo) -> tarfile.TarInfo:
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    return member
