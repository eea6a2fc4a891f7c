# SPDX-License-Identifier: Apache-2.0
"""A builder without a hypervisor: it speaks as the real one does, and an Unpack order's path says what becomes of it."""

import os
import socket
import sys
import time
from pathlib import Path

from xenops.errors import HypercallFailed, IoError
from xenopsd.backends.xen.builder.desk import Desk, serve
from xenopsd.backends.xen.builder.orders import (
    AskLogDirty,
    AskSuspend,
    Built,
    Hello,
    LogDirty,
    Message,
    Order,
    Progress,
    Save,
    Saved,
    Suspended,
    Unpack,
    Unpacked,
)
from xenopsd.backends.xen.libxc import die_with_parent


def perform(order: Order, desk: Desk) -> None:
    if isinstance(order, Save):
        _save(order, desk)
        return
    assert isinstance(order, Unpack)
    what, _, argument = order.kernel.partition(" ")
    match what:
        case "abort":
            print("xc: assertion failed: ctx->save.callbacks", file=sys.stderr, flush=True)
            os.abort()
        case "exit":
            sys.exit(int(argument))
        case "sleep":
            Path(argument).touch()
            time.sleep(1000)
        case "nonsense":
            desk.tell(Message())
        case "garbage":
            os.write(desk._connection.fileno(), b"\xff" * 99)
            time.sleep(1000)
        case "another":
            desk.tell(Built(1, 2))
        case "hypercall":
            raise HypercallFailed("xc_dom_boot_mem_init", "EBUSY", "no memory")
        case "file":
            raise FileNotFoundError(2, "No such file or directory", argument)
        case "bug":
            raise KeyError(argument)
        case "linger":  # the guest's memory is unmapped after the answer
            desk.tell(Unpacked(str(os.getpid())))
            time.sleep(0.3)
            Path(argument).touch()
        case _:
            desk.tell(Unpacked(str(os.getpid())))


def _save(order: Save, desk: Desk) -> None:
    for percent in range(0, 101, 25):
        desk.tell(Progress(percent / 100))
    if not desk.ask(AskLogDirty(enable=True), LogDirty).ok:
        raise HypercallFailed("xc_domain_save", "no errno", "switch_qemu_logdirty")
    suspended = desk.ask(AskSuspend(), Suspended)
    if not suspended.ok:
        raise HypercallFailed("xc_domain_save", "no errno", "the suspend callback said no")
    if suspended.qemu_state_path is None:
        raise IoError(order.path, "no state")
    desk.tell(Saved(len(suspended.qemu_state_path)))


def main() -> None:
    cache_dir, descriptor = sys.argv[1:]
    die_with_parent(9)
    if (Path(cache_dir) / "broken").exists():
        print("cannot open shared object", file=sys.stderr, flush=True)
        sys.exit(3)
    desk = Desk(socket.socket(fileno=int(descriptor)))
    desk.tell(Hello("4.17"))
    serve(desk, perform, lambda: ["xc: a line"])


if __name__ == "__main__":
    main()
