# SPDX-License-Identifier: Apache-2.0
"""The sockets: a thin rim of TCP on loopback and a Unix socket around the sessions.

What sessions want to say is gathered for one turn of the event loop and written at once. When many frames came together
that is done after half of them too: those who get something begin with it on another processor while we are at the rest,
instead of everybody waiting for everybody in turn. A peer that does not read gets no further deliveries; one that goes on
asking without reading the answers is no longer read from.
"""

import asyncio
import logging
import os
import socket
import ssl
import struct
from pathlib import Path
from typing import cast

from message_switch import clock
from message_switch.access.checks import Checks
from message_switch.access.encryption import common_name
from message_switch.access.users import User
from message_switch.conversation.session import CLOSE_PATIENCE_S, Session, State
from message_switch.switch import HIGH_WATER, Switch
from xenops.sockets import Intake

log = logging.getLogger(__name__)

# Answers (not deliveries) that a peer may leave unread before we leave its questions unread.
_ANSWERS_MAX = 8 << 20
_TICK_S = 0.5
_PEER = struct.Struct("iII")


class _Gone(asyncio.Transport):
    """The transport of a connection that was. The one it had knows the connection, which is not to know it for ever after:
    with encryption that is a ring of 56 KiB, which the garbage collector leaves until there are a thousand or two."""

    def is_closing(self) -> bool:
        return True

    def get_write_buffer_size(self) -> int:
        return 0

    def abort(self) -> None:
        """Done."""


_GONE = _Gone()


class Connection(Intake):
    """Bytes between one socket and its session."""

    def __init__(self, server: "Server", kind: str) -> None:
        self._server = server
        self._kind = kind
        self._paused = False
        self._swamped = False
        self._patience: asyncio.TimerHandle | None = None
        self.session: Session
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport = cast(asyncio.Transport, transport)  # uvloop's is one in all but its class
        transport.set_write_buffer_limits(high=HIGH_WATER)
        self.session = Session(
            self._server.switch,
            self._wake,
            clock.now(),
            name=f"{self._kind}#{self._server.number()}",
            version=self._server.version,
            peer=self._server.known(transport),
            write=self._server.write,
        )
        self._server.connections[self] = None

    def data_received(self, data: bytes) -> None:
        try:
            self.session.receive(data, clock.now())
        except Exception:
            # A mistake of ours: this connection ends, the others go on.
            log.exception("%s: internal error", self.session.name)
            self.transport.abort()
        if self.session.state is State.CLOSED:
            self._wake()
        elif self.session.blocked:
            self.listen()

    def connection_lost(self, exc: Exception | None) -> None:
        del self._server.connections[self]
        self._server.awake.pop(self, None)
        self._leave_unread(0)
        self.session.lost(clock.now())
        self.transport = _GONE
        if self._patience is not None:
            self._patience.cancel()
        self._server.left()

    def pause_writing(self) -> None:
        self._paused = True
        self.session.outbox.writable = False

    def resume_writing(self) -> None:
        self._paused = self._swamped = False
        self._leave_unread(0)
        self.listen()
        self.session.resume(clock.now())

    def flush(self) -> None:
        """Write what the session has to say."""
        session, outbox = self.session, self.session.outbox
        if outbox.parts and not self.transport.is_closing():
            self.transport.write(outbox.take())
            session.spoke_at = clock.now()
        if session.state is State.CLOSED:
            self._part()
        elif self._paused:
            self._leave_unread(self.transport.get_write_buffer_size())
            if outbox.unread > _ANSWERS_MAX + self._server.body_max:
                self._swamped = True
                self.listen()
        elif not outbox.writable:
            session.resume(clock.now())

    def _leave_unread(self, size: int) -> None:
        self._server.switch.unread += size - self.session.outbox.unread
        self.session.outbox.unread = size

    def tick(self, now: float) -> None:
        """See `Session.tick`."""
        self.session.tick(now)
        if self.session.state is State.CLOSED and not self.transport.is_closing():
            self.flush()

    @property
    def unread(self) -> int:
        """How many bytes wait for the peer to read them."""
        return self.session.outbox.size + self.transport.get_write_buffer_size()

    def listen(self) -> None:
        """Or not: to who leaves our answers unread, and to publishers while we are short of memory or disk."""
        if self.transport.is_closing():
            return
        if self._swamped or self.session.may_wait:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def _wake(self) -> None:
        self._server.wake(self)

    def _part(self) -> None:
        """Close once the last words are written, but do not wait for long for somebody to read them."""
        if not self.transport.is_closing():
            self.transport.close()
            self._patience = asyncio.get_running_loop().call_later(CLOSE_PATIENCE_S, self.transport.abort)


class Server:
    """All connections of one switch, and its clock."""

    def __init__(self, switch: Switch, *, version: str) -> None:
        self.switch = switch
        self.version = version
        self.body_max = switch.limits.body_max
        self.connections: dict[Connection, None] = {}
        self.awake: dict[Connection, None] = {}
        self.port = self.tls_port = 0
        self._loop = asyncio.get_running_loop()
        self._listeners: list[asyncio.Server] = []
        self._count = 0
        self._flushing = False
        self._alarm: asyncio.TimerHandle | None = None
        self._ticker: asyncio.TimerHandle | None = None
        self._nobody = asyncio.Event()
        switch.broker.alarm_clock = self._set_alarm
        switch.broker.on_crowded = self._crowded
        self._checks = Checks(switch.users)
        switch.check = self._checks.check

    async def listen_tcp(self, host: str, port: int) -> None:
        """Take connections on a TCP port; 0 takes a free one, see `port`."""
        listener = await self._loop.create_server(lambda: Connection(self, "tcp"), host, port)
        self.port = listener.sockets[0].getsockname()[1]
        self._listeners.append(listener)

    async def listen_tls(self, host: str, port: int, context: ssl.SSLContext) -> None:
        """The same, encrypted; 0 takes a free port, see `tls_port`."""
        patience_s = self.switch.limits.handshake_s
        listener = await self._loop.create_server(
            lambda: Connection(self, "tls"), host, port, ssl=context, ssl_handshake_timeout=patience_s
        )
        self.tls_port = listener.sockets[0].getsockname()[1]
        self._listeners.append(listener)

    async def listen_unix(self, path: Path, *, for_all: bool) -> None:
        """Take connections on a Unix socket that only our own user, or everybody, can open."""
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        if path.is_socket():
            path.unlink()  # of a switch that was killed
        before = os.umask(0o111 if for_all else 0o177)
        try:
            listening.bind(str(path))
        finally:
            os.umask(before)
        listener = await self._loop.create_unix_server(lambda: Connection(self, "unix"), sock=listening)
        self._listeners.append(listener)

    def known(self, transport: asyncio.Transport) -> User | None:
        """Whose the other end is, as far as the system or its certificate tell."""
        peer: socket.socket = transport.get_extra_info("socket")
        if peer.family == socket.AF_UNIX:
            return self.switch.users.by_uid(_uid(peer))
        name = common_name(transport.get_extra_info("peercert"))
        return self.switch.users.by_certificate(name) if name else None

    async def close(self) -> None:
        """Dismiss everybody, wait a little for their goodbyes, and go."""
        for listener in self._listeners:
            listener.close()
        now = clock.now()
        for connection in list(self.connections):
            connection.session.dismiss(now)
            self.wake(connection)
        self._nobody.clear()
        if self.connections:
            try:
                await asyncio.wait_for(self._nobody.wait(), CLOSE_PATIENCE_S / 5)
            except TimeoutError:
                for connection in list(self.connections):
                    connection.transport.abort()
        self._checks.close()
        for timer in (self._alarm, self._ticker):
            if timer is not None:
                timer.cancel()

    def unread(self) -> int:
        """How many bytes wait for some peer to read them."""
        return sum(connection.unread for connection in self.connections)

    def number(self) -> int:
        """A number for a connection's name in the log."""
        self._count += 1
        if self._ticker is None:
            self._ticker = self._loop.call_later(_TICK_S, self._tick)
        return self._count

    def wake(self, connection: Connection) -> None:
        """Write for this connection at the end of this turn of the loop."""
        self.awake[connection] = None
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)

    def left(self) -> None:
        """Somebody has gone."""
        if not self.connections:
            self._nobody.set()

    def _flush(self) -> None:
        self._flushing = False
        self.write()

    def write(self) -> None:
        """Write what all sessions have to say, without waiting for the end of this turn."""
        awake, self.awake = self.awake, {}
        for connection in awake:
            connection.flush()

    def _tick(self) -> None:
        self._ticker = self._loop.call_later(_TICK_S, self._tick) if self.connections else None
        now = clock.now()
        for connection in list(self.connections):
            connection.tick(now)

    def _crowded(self) -> None:
        now, short_of = clock.now(), self.switch.broker.short_of
        log.warning("publishers wait: low on %s", ", ".join(short_of)) if short_of else log.warning("publishers go on")
        for connection in list(self.connections):
            connection.session.crowded(now)
            connection.listen()

    def _set_alarm(self, at: float) -> None:
        when = self._loop.time() + max(0.0, at - clock.now())
        if self._alarm is not None and not self._alarm.cancelled():
            if self._alarm.when() <= when:
                return
            self._alarm.cancel()
        self._alarm = self._loop.call_at(when, self._sweep)

    def _sweep(self) -> None:
        self._alarm = None
        broker = self.switch.broker
        broker.now = clock.now()
        broker.alarm(broker.sweep())


def write_atomically(path: Path, text: str) -> None:
    """A reader sees the old content or the new, never half of it."""
    beside = path.with_name(path.name + ".new")
    beside.write_text(text)
    beside.rename(path)


def _uid(peer: socket.socket) -> int:
    uid: int = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))[1]
    return uid
