# SPDX-License-Identifier: Apache-2.0
"""A builder process: `python -m xenopsd.backends.xen.builder KERNEL_CACHE SOCKET_DESCRIPTOR`, started by the daemon alone.

It opens the hypervisor before any order comes, dies with the daemon, and speaks to nobody else.
"""

import faulthandler
import signal
import socket
import sys
from pathlib import Path

from xenops.errors import Fault, encode
from xenopsd.backends.xen.builder import domain, stream
from xenopsd.backends.xen.builder.desk import Desk, HungUp, serve
from xenopsd.backends.xen.builder.kernel import Kernels
from xenopsd.backends.xen.builder.orders import Build, DumpCore, Failed, Hello, Order, Restore, Save, Unpack, Unpacked
from xenopsd.backends.xen.libxc import Xc, die_with_parent, unzstd


class Workshop:
    """An open hypervisor and the kernels that were used here."""

    def __init__(self, xc: Xc, cache_dir: Path) -> None:
        self._xc = xc
        self._kernels = Kernels(cache_dir, unzstd)

    def perform(self, order: Order, desk: Desk) -> None:
        """Do what was ordered and tell the answer."""
        self._xc.forget_lines()
        match order:
            case Build():
                domain.build(self._xc, self._kernels, order, desk)
            case Unpack(kernel):
                desk.tell(Unpacked(str(self._kernels.elf(Path(kernel)))))
            case Save():
                stream.save(self._xc, order, desk)
            case Restore():
                stream.restore(self._xc, order, desk)
            case DumpCore():
                stream.dump_core(self._xc, order, desk)

    def log_lines(self) -> list[str]:
        """What libxc said during this order."""
        return list(self._xc.lines)


def main(arguments: list[str]) -> int:
    """Serve until the daemon hangs up."""
    cache_dir, descriptor = arguments
    faulthandler.enable()
    die_with_parent(signal.SIGKILL)
    desk = Desk(socket.socket(fileno=int(descriptor)))
    try:
        with Xc() as xc:
            desk.tell(Hello(xc.release.name))
            workshop = Workshop(xc, Path(cache_dir))
            serve(desk, workshop.perform, workshop.log_lines)
    except Fault as fault:
        desk.tell(Failed(encode(fault), []))
        return 1
    except HungUp:
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
