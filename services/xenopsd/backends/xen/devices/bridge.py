# SPDX-License-Identifier: Apache-2.0
"""Interfaces of the control domain and the Linux bridges that they are ports of, by ioctl: no process is started for it.

No bridge is ever made or removed here, and no interface but those that are named.
Numbers and structures: linux/sockios.h (SIOC*), linux/if.h (IFF_*, struct ifreq).
"""

import errno
import fcntl
import logging
import os
import socket
import struct
from pathlib import Path

from xenops.errors import IoError

log = logging.getLogger(__name__)

_GET_FLAGS, _SET_FLAGS = 0x8913, 0x8914
_GET_MTU, _SET_MTU = 0x8921, 0x8922
_SET_NAME = 0x8923
_SET_ADDRESS = 0x8924
_GET_INDEX = 0x8933
_BRIDGE_ADD, _BRIDGE_DELETE = 0x89A2, 0x89A3
_UP = 0x1
_ETHERNET = 1  # ARPHRD_ETHER
_REQUEST = struct.Struct("=16s24s")
_NAME_LIMIT = 15
_PORT_ADDRESS = bytes.fromhex("feffffffffff")  # the highest there is: the bridge never takes it for its own
_NET = Path("/sys/class/net")


def check(bridge: str, net: Path = _NET) -> None:
    """Raises `IoError`, with what to do, when there is no such bridge."""
    if (net / _valid(bridge) / "bridge").is_dir():
        return
    if (net / bridge).exists():
        raise IoError(
            bridge, "this interface is no Linux bridge; name one that is, or set a hotplug script for other switches"
        )
    raise IoError(bridge, f"there is no such bridge; make one (ip link add {bridge} type bridge) or name another")


def join(port: str, bridge: str, *, mtu: int, up: bool) -> None:
    """An interface becomes a port of that bridge, as vif-bridge makes it one. Raises `IoError`."""
    try:
        with _control() as control:
            _set_flag(control, port, up=False)
            _ask(control, _SET_ADDRESS, port, struct.pack("=H6s", _ETHERNET, _PORT_ADDRESS))
            _set_mtu(control, port, mtu)
            if master(port) not in (None, bridge):
                _move(control, _BRIDGE_DELETE, str(master(port)), port)
            if master(port) is None:
                _move(control, _BRIDGE_ADD, bridge, port)
            _set_flag(control, port, up=up)
    except OSError as error:
        raise IoError(port, f"it could not be made a port of {bridge}: {error.strerror or error}") from error


def leave(port: str) -> None:
    """An interface is a port no more, and is down. That it is gone altogether is as well."""
    try:
        with _control() as control:
            _set_flag(control, port, up=False)
            bridge = master(port)
            if bridge is not None:
                _move(control, _BRIDGE_DELETE, bridge, port)
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise IoError(port, f"it could not be taken off its bridge: {error.strerror or error}") from error


def set_link(port: str, *, up: bool) -> None:
    """The link comes up or goes down. Raises `IoError`."""
    try:
        with _control() as control:
            _set_flag(control, port, up=up)
    except OSError as error:
        raise IoError(port, f"its link could not be changed: {error.strerror or error}") from error


def rename(port: str, name: str) -> None:
    """An interface gets another name. Raises `IoError`."""
    try:
        with _control() as control:
            _set_flag(control, port, up=False)
            _ask(control, _SET_NAME, port, _valid(name).encode())
    except OSError as error:
        raise IoError(port, f"it could not be renamed {name}: {error.strerror or error}") from error


def exists(port: str, net: Path = _NET) -> bool:
    """Whether there is such an interface."""
    return (net / _valid(port)).exists()


def master(port: str, net: Path = _NET) -> str | None:
    """Which bridge an interface is a port of."""
    try:
        return os.path.basename(os.readlink(net / _valid(port) / "master"))
    except OSError:
        return None


def _control() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)


def _ask(control: socket.socket, operation: int, name: str, argument: bytes = b"") -> bytes:
    answer = fcntl.ioctl(control, operation, _REQUEST.pack(_valid(name).encode(), argument))
    body: bytes = _REQUEST.unpack(answer)[1]
    return body


def _set_flag(control: socket.socket, port: str, *, up: bool) -> None:
    (flags,) = struct.unpack_from("=H", _ask(control, _GET_FLAGS, port))
    wanted = flags | _UP if up else flags & ~_UP
    if wanted != flags:
        _ask(control, _SET_FLAGS, port, struct.pack("=H", wanted))


def _set_mtu(control: socket.socket, port: str, mtu: int) -> None:
    (is_now,) = struct.unpack_from("=i", _ask(control, _GET_MTU, port))
    if is_now == mtu:
        return
    try:
        _ask(control, _SET_MTU, port, struct.pack("=i", mtu))
    except OSError as error:  # netback takes more than 1500 only once the guest has said that it does
        log.warning("%s keeps its MTU of %d, not %d: %s", port, is_now, mtu, error.strerror)


def _move(control: socket.socket, operation: int, bridge: str, port: str) -> None:
    index = _ask(control, _GET_INDEX, port)[:4]
    _ask(control, operation, bridge, index)


def _valid(name: str) -> str:
    """Raises `IoError` for what is no interface's name: it becomes a part of a path."""
    if not (0 < len(name.encode()) <= _NAME_LIMIT) or "/" in name or name in (".", "..") or not name.isprintable():
        raise IoError(name[:40], f"this is no interface's name: 1 to {_NAME_LIMIT} characters without slashes")
    return name
