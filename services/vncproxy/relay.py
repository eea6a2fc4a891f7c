# SPDX-License-Identifier: Apache-2.0
"""One viewer on a loopback port, one console behind it, and opaque bytes both ways.

It never listens on anything but loopback, and never looks into the bytes. A session's life:

    console connected, port open ──one viewer──> port closed, carrying ──both ends closed──> done
                        └──nobody within `expires_s`──> expired       └──reset──> failed
"""

import asyncio
import logging
import socket

from vncproxy.ends import LOOPBACK, End, Socket, connect
from vncproxy.metrics import Metrics
from xenops.errors import Busy, DoesNotExist
from xenops.types.console import Console, ConsoleProtocol, ConsoleRoute

log = logging.getLogger(__name__)


class Relay:
    """At most `limit` sessions; `half_closed_s` bounds the silence after one side has said its last."""

    def __init__(
        self, metrics: Metrics, *, expires_s: float = 30.0, limit: int = 256, half_closed_s: float = 30.0
    ) -> None:
        self._metrics, self._limit = metrics, limit
        self._expires_s, self._half_closed_s = expires_s, half_closed_s
        self._sessions: set[asyncio.Task[str]] = set()
        self._opening = 0

    @property
    def sessions(self) -> int:
        """How many there are now, waiting or connected."""
        return len(self._sessions)

    async def open(self, vm: str, console: Console) -> ConsoleRoute:
        """Connect to a console and open a port for one viewer."""
        protocol = console.protocol
        if len(self._sessions) + self._opening >= self._limit:
            self._metrics.ended.labels(protocol.value, "busy").inc()
            raise Busy(f"vncproxy, which carries {self._limit} sessions at once,", 1000)
        self._opening += 1
        try:
            console_end = await connect(console)
        except (OSError, ValueError) as error:
            self._metrics.ended.labels(protocol.value, "unreachable").inc()
            log.info("the %s console of %s cannot be reached: %s", protocol.value, vm, error)
            raise DoesNotExist("console that can be reached", f"{vm}/{protocol.value}") from None
        finally:
            self._opening -= 1
        try:
            listener = _listen()
        except OSError:
            console_end.close()
            raise
        port: int = listener.getsockname()[1]
        session = asyncio.create_task(self._session(vm, protocol, listener, console_end))
        self._sessions.add(session)
        self._metrics.sessions.set(len(self._sessions))

        def ended(_: asyncio.Task[str]) -> None:
            listener.close()  # here, since a task that is cancelled before its first step closes nothing
            console_end.close()
            self._ended(session, vm, protocol)

        session.add_done_callback(ended)
        return ConsoleRoute(host=LOOPBACK, port=port, protocol=protocol, expires_s=self._expires_s)

    async def close(self) -> None:
        """End every session."""
        for session in self._sessions:
            session.cancel()
        while self._sessions:
            await asyncio.wait(self._sessions)

    async def _session(self, vm: str, protocol: ConsoleProtocol, listener: socket.socket, console: End) -> str:
        try:
            async with asyncio.timeout(self._expires_s):
                viewer, _ = await asyncio.get_running_loop().sock_accept(listener)
        except TimeoutError:
            return "expired"
        listener.close()  # whoever comes second is refused
        with viewer:
            log.info("a viewer is connected to the %s console of %s", protocol.value, vm)
            viewer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return await _Conversation(Socket(viewer), console, self._metrics).carry(self._half_closed_s)

    def _ended(self, session: asyncio.Task[str], vm: str, protocol: ConsoleProtocol) -> None:
        self._sessions.discard(session)
        self._metrics.sessions.set(len(self._sessions))
        if session.cancelled():
            outcome = "stopped"
        elif (error := session.exception()) is not None:
            outcome = "failed"
            log.error("the session with the %s console of %s broke", protocol.value, vm, exc_info=error)
        else:
            outcome = session.result()
        self._metrics.ended.labels(protocol.value, outcome).inc()
        log.info("session with the %s console of %s: %s", protocol.value, vm, outcome)


class _Conversation:
    """Bytes both ways between a viewer and a console, each direction with its own end."""

    def __init__(self, viewer: End, console: End, metrics: Metrics) -> None:
        self._viewer, self._console, self._metrics = viewer, console, metrics
        self._moved = 0

    async def carry(self, half_closed_s: float) -> str:
        """Until both ends have closed, or one has broken."""
        directions = [
            asyncio.create_task(self._carry(self._viewer, self._console, "to_console")),
            asyncio.create_task(self._carry(self._console, self._viewer, "from_console")),
        ]
        try:
            first, rest = await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
            if any(direction.exception() is not None for direction in first):
                return "failed"
            await self._hear_out(rest, half_closed_s)
            return "done"
        finally:
            for direction in directions:
                direction.cancel()
            await asyncio.gather(*directions, return_exceptions=True)

    async def _carry(self, source: End, sink: End, direction: str) -> None:
        count = self._metrics.bytes.labels(direction)
        while untrusted := await source.receive():
            await sink.send(untrusted)
            self._moved += len(untrusted)
            count.inc(len(untrusted))
        sink.finish()

    async def _hear_out(self, rest: set[asyncio.Task[None]], half_closed_s: float) -> None:
        """Let the other direction go on as long as bytes come: only from them does it show that its reader has gone."""
        while rest:
            before = self._moved
            _, rest = await asyncio.wait(rest, timeout=half_closed_s)
            if self._moved == before:
                return


def _listen() -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.bind((LOOPBACK, 0))
        listener.listen(0)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
