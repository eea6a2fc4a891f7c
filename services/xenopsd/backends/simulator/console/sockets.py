# SPDX-License-Identifier: Apache-2.0
"""Offers each domain's consoles on Unix sockets: the terminal, and a picture for those with a device model.

An idle console is a listening socket and no more: neither task nor buffer. A viewer who does not keep up is dropped.
"""

import asyncio
import logging
import os
import resource
import socket
import stat
import tempfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from xenops.types.console import Console, ConsoleProtocol
from xenopsd.backends.simulator.console.rfb import RfbError, ServerSession
from xenopsd.backends.simulator.world.domain import Domain

log = logging.getLogger(__name__)

_BEHIND_BYTES = 1 << 16
_FOLDER_BYTES = 90  # leaves room for `/<domain>.rfb`
_SUFFIX = {ConsoleProtocol.VT100: "vt", ConsoleProtocol.RFB: "rfb"}

TypeIn = Callable[[str, bytes], None]


class Viewer(Protocol):
    """Somebody who looks at a domain's console."""

    def show(self, shown: bytes) -> None:
        """The guest has printed this."""

    def leave(self) -> None:
        """The domain is gone."""


class Sockets:
    """The consoles of all domains; files are named by domain, short enough for a socket's address."""

    def __init__(self, folder: Path) -> None:
        self._folder = _short(folder.absolute())
        self._type_in: TypeIn = lambda vm, untrusted_keys: None
        self._listeners: dict[tuple[int, ConsoleProtocol], socket.socket] = {}
        self._offered: dict[int, list[Console]] = {}
        self._viewers: dict[int, set[Viewer]] = {}
        self._accepting: set[asyncio.Task[None]] = set()
        _allow_many_files()

    def connect(self, type_in: TypeIn) -> None:
        """Where keys go that somebody types at a machine's terminal."""
        self._type_in = type_in

    def open(self, domain: Domain) -> None:
        """Offer what the domain has by now. Idempotent."""
        self._listen(domain, ConsoleProtocol.VT100)
        if domain.device_model:
            self._listen(domain, ConsoleProtocol.RFB)
        else:
            self._stop_listening(domain.domid, ConsoleProtocol.RFB)
        self._offered[domain.domid] = [
            Console(protocol=protocol, path=self._path(domain.domid, protocol))
            for protocol in (ConsoleProtocol.RFB, ConsoleProtocol.VT100)
            if (domain.domid, protocol) in self._listeners
        ]

    def show(self, domid: int, shown: bytes) -> None:
        """Show to whoever looks."""
        for viewer in list(self._viewers.get(domid, ())):
            viewer.show(shown)

    def close(self, domid: int) -> None:
        """The domain is gone. Idempotent."""
        for protocol in _SUFFIX:
            self._stop_listening(domid, protocol)
        self._offered.pop(domid, None)
        for viewer in self._viewers.pop(domid, set()):
            viewer.leave()
        if not self._listeners:
            with suppress(OSError):  # not there, or not empty
                self._folder.rmdir()

    def consoles(self, domid: int) -> list[Console]:
        """What is offered, the picture first."""
        return self._offered.get(domid, [])

    def _path(self, domid: int, protocol: ConsoleProtocol) -> str:
        return f"{self._folder}/{domid}.{_SUFFIX[protocol]}"

    def _listen(self, domain: Domain, protocol: ConsoleProtocol) -> None:
        if (domain.domid, protocol) in self._listeners:
            return
        path = self._path(domain.domid, protocol)
        try:
            if not self._listeners:
                _own(self._folder)
            with suppress(FileNotFoundError):
                os.unlink(path)  # a daemon that was killed left its own
            listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        except OSError as error:
            log.warning("domain %d has no %s console: %s", domain.domid, protocol.value, error)
            return
        try:
            listener.bind(path)
            listener.listen()
        except OSError as error:
            listener.close()
            log.warning("domain %d has no %s console at %s: %s", domain.domid, protocol.value, path, error)
            return
        self._listeners[domain.domid, protocol] = listener
        asyncio.get_running_loop().add_reader(listener, self._accept, listener, domain, protocol)

    def _stop_listening(self, domid: int, protocol: ConsoleProtocol) -> None:
        listener = self._listeners.pop((domid, protocol), None)
        if listener is not None:
            asyncio.get_running_loop().remove_reader(listener)
            listener.close()
            with suppress(OSError):  # gone already, or nothing that matters
                os.unlink(self._path(domid, protocol))

    def _accept(self, listener: socket.socket, domain: Domain, protocol: ConsoleProtocol) -> None:
        try:
            connection, _ = listener.accept()
        except OSError as error:
            log.debug("console of domain %d: %s", domain.domid, error)
            return
        viewers = self._viewers.setdefault(domain.domid, set())
        viewer = (_Terminal if protocol is ConsoleProtocol.VT100 else _Screen)(domain, viewers, self._type_in)
        task = asyncio.create_task(_attach(connection, viewer))
        self._accepting.add(task)
        task.add_done_callback(self._accepting.discard)


async def _attach(connection: socket.socket, viewer: asyncio.Protocol) -> None:
    await asyncio.get_running_loop().connect_accepted_socket(lambda: viewer, connection)


class _Connection(asyncio.Protocol):
    """One viewer's connection, dropped when it is too far behind."""

    def __init__(self, domain: Domain, viewers: set[Viewer], type_in: TypeIn) -> None:
        self._domain, self._viewers = domain, viewers
        self._type_in: TypeIn = type_in
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._viewers.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        self._viewers.discard(self)

    def show(self, shown: bytes) -> None:
        raise NotImplementedError

    def leave(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def _write(self, data: bytes) -> None:
        if self._transport is None or not data:
            return
        if self._transport.get_write_buffer_size() > _BEHIND_BYTES:
            self._transport.abort()
        else:
            self._transport.write(data)


class _Terminal(_Connection):
    """A viewer of a terminal: it sees what was printed so far, then what is printed next."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._write(self._domain.console)

    def data_received(self, untrusted_data: bytes) -> None:
        self._type_in(self._domain.vm, untrusted_data)

    def show(self, shown: bytes) -> None:
        self._write(shown)


class _Screen(_Connection):
    """A viewer of the picture."""

    def __init__(self, domain: Domain, viewers: set[Viewer], type_in: TypeIn) -> None:
        super().__init__(domain, viewers, type_in)
        self._session = ServerSession(f"simulated {domain.name}")

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._write(self._session.data_to_send())

    def data_received(self, untrusted_data: bytes) -> None:
        try:
            self._session.receive(untrusted_data)
        except RfbError as error:
            log.info("a viewer does not speak RFB 3.8: %s", error)
            self.leave()
            return
        if untrusted_keys := self._session.keys_typed():
            self._type_in(self._domain.vm, untrusted_keys)
        self._write(self._session.data_to_send())

    def show(self, shown: bytes) -> None:
        self._session.move_on()
        self._write(self._session.data_to_send())


def _short(folder: Path) -> Path:
    """A socket's address holds 107 bytes: what lies too deep gets a folder of its own among the temporary ones."""
    if len(os.fsencode(folder)) <= _FOLDER_BYTES:
        return folder
    return Path(tempfile.gettempdir()) / f"xenops-{os.getuid()}-{zlib.crc32(os.fsencode(folder)):08x}"


def _own(folder: Path) -> None:
    """Make the folder, or make sure that it is ours and nobody else's."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise OSError(f"{folder} is not a folder of ours alone")


def _allow_many_files() -> None:
    """A listening socket a console: a thousand machines need more than the usual thousand files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 65536 if hard == resource.RLIM_INFINITY else min(hard, 65536)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
