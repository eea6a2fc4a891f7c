# SPDX-License-Identifier: Apache-2.0
"""Debian's own xenstored and oxenstored on a machine without Xen, each with a socket of its own."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NAMES = ("xenstored", "oxenstored")
_PROGRAMS = Path("/usr/lib/xen-4.17/bin")
_SHIM = Path(__file__).parent / "without_xen.c"
_READY_S = 20.0


@contextmanager
def running(name: str, directory: Path) -> Iterator[Path]:
    """The socket of a daemon that is ready. Skips the test where Debian's packages are not installed."""
    program = _PROGRAMS / name
    if not program.exists():
        pytest.skip(f"needs {program} (Debian: xen-utils-4.17)")
    if shutil.which("gcc") is None:
        pytest.skip("needs a C compiler (Debian: gcc libc6-dev)")
    directory.mkdir(parents=True)
    shim = directory / "without_xen.so"
    subprocess.run(["gcc", "-O1", "-shared", "-fPIC", "-o", shim, _SHIM, "-ldl"], check=True, timeout=30)
    (directory / "xsd_port").write_text("1")
    (directory / "xsd_kva").write_bytes(bytes(4096))
    config = directory / "oxenstored.conf"
    settings = {
        "pid-file": directory / "pid",
        "xenstored-log-file": directory / "log",
        "access-log-file": directory / "access.log",
        "xenstored-port": directory / "xsd_port",
        "xenstored-kva": directory / "xsd_kva",
        **dict.fromkeys(("merge-activate", "perms-activate", "quota-activate"), "true"),
    }
    config.write_text("".join(f"{key} = {value}\n" for key, value in settings.items()))
    arguments = {
        "xenstored": ["-N", "-F", str(directory / "pid")],
        "oxenstored": ["--no-fork", "--config-file", str(config)],
    }
    places = dict.fromkeys(("XENSTORE_DIR", "XENSTORED_RUNDIR"), str(directory))
    environ = {"PATH": "/usr/bin", "LD_PRELOAD": str(shim), "XENSTORED_PATH": str(directory / "socket"), **places}
    with (directory / "log").open("wb") as log:
        daemon = subprocess.Popen([program, *arguments[name]], env=environ, stdout=log, stderr=log, cwd=directory)
    try:
        _wait(daemon, directory)
        yield directory / "socket"
    finally:
        daemon.kill()
        daemon.wait()


def _wait(daemon: "subprocess.Popen[bytes]", directory: Path) -> None:
    deadline = time.monotonic() + _READY_S
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(directory / "socket")) == 0:
                return
        if daemon.poll() is not None or time.monotonic() > deadline:
            raise AssertionError(f"the daemon is not ready: {(directory / 'log').read_text()}")
        time.sleep(0.01)
