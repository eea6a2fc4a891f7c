# SPDX-License-Identifier: Apache-2.0
"""A console that a running machine offers."""

from enum import Enum

from xenops.types.record import Record


class ConsoleProtocol(Enum):
    """What is spoken on the socket."""

    RFB = "Rfb"
    VT100 = "Vt100"


class Console(Record, frozen=True, kw_only=True):
    """Where a console can be reached on this host: a Unix socket path, or else a loopback TCP port."""

    protocol: ConsoleProtocol
    port: int = 0
    path: str = ""


class VmConsole(Record, frozen=True, kw_only=True):
    """A console of one running machine."""

    vm: str
    name: str
    console: Console


class ConsoleRoute(Record, frozen=True, kw_only=True):
    """Where to connect, once, within `expires_s` seconds."""

    host: str
    port: int
    protocol: ConsoleProtocol
    expires_s: float
