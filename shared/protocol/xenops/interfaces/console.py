# SPDX-License-Identifier: Apache-2.0
"""What can be asked of vncproxy: which consoles are there, and a way to one of them."""

from typing import ClassVar, Protocol

from xenops.errors import Busy, DoesNotExist
from xenops.idl import Interface, rpc
from xenops.types.console import ConsoleProtocol, ConsoleRoute, VmConsole
from xenops.types.ids import VmId


class CONSOLE(Interface, Protocol):
    """The consoles of running machines."""

    name: ClassVar[str] = "CONSOLE"

    @rpc(reads=True)
    async def list(self) -> list[VmConsole]:
        """The consoles of all running machines."""

    @rpc(raises=(DoesNotExist, Busy))
    async def open(self, vm: VmId, protocol: ConsoleProtocol = ConsoleProtocol.VT100) -> ConsoleRoute:
        """Listen on a loopback port for one connection and carry it to the console; nobody connecting, it closes."""
