# SPDX-License-Identifier: Apache-2.0
"""What stands in xenstore of a device model. Pure.

/local/domain/0/device-model/<n>          state: QEMU writes "running" when it is ready
/local/domain/<n>/image/device-model-pid  its process                                       xl reads
/local/domain/<n>/serial/0/tty            the terminal of the first serial port             `xl console` reads
/libxl/<n>/dm-version                     qemu_xen                                          xl reads
/xenopsd/domain/<n>/qemu                  "starting" or "running": whether there should be one
"""

import re

from xenopsd.backends.xen.devicemodel.arguments import SERIAL_LABEL
from xenopsd.backends.xen.domain import layout
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, Write

RUNNING = "running"
_TERMINAL = re.compile(r"pty:(/dev/pts/[0-9]{1,6})")


def note(domid: int) -> str:
    """Whether there should be one: "starting", "running", or nothing."""
    return f"{layout.private(domid)}/qemu"


def state(domid: int) -> str:
    """Where it says that it is ready."""
    return f"{_own(domid)}/state"


def starting(domid: int) -> list[Change]:
    """Before it starts."""
    return [Mkdir(_own(domid), ("n0",)), Write(note(domid), "starting")]


def running(domid: int, pid: int, untrusted_ports: object) -> list[Change]:
    """Once it emulates a guest's devices; the ports are its answer to query-chardev."""
    top = layout.domain(domid)
    changes: list[Change] = [
        Write(f"{top}/image/device-model-pid", str(pid)),
        Write(f"{layout.libxl(domid)}/dm-version", "qemu_xen"),
        Write(note(domid), RUNNING),
    ]
    terminal = _terminal(untrusted_ports)
    return [*changes, Write(f"{top}/serial/0/tty", terminal)] if terminal else changes


def gone(domid: int) -> list[Change]:
    """None of it any more."""
    top = layout.domain(domid)
    paths = (_own(domid), f"{top}/image", f"{top}/serial", f"{layout.libxl(domid)}/dm-version", note(domid))
    return [Remove(path) for path in paths]


def _own(domid: int) -> str:
    return f"{layout.domain(0)}/device-model/{domid}"


def _terminal(untrusted_ports: object) -> str | None:
    for port in untrusted_ports if isinstance(untrusted_ports, list) else ():
        if isinstance(port, dict) and port.get("label") == SERIAL_LABEL:
            match = _TERMINAL.fullmatch(str(port.get("filename")))
            return match[1] if match else None
    return None
