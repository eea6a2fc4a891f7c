# SPDX-License-Identifier: Apache-2.0
"""A relay in front of a daemon: it notes every packet, and can be slow, cut the connection, or be away."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from xenops.sockets import connected
from xenopsd.backends.xen.xenstore.wire import Decoder, Operation, Packet, encode_packet, strings


class Relay:
    """`asked` and `said` are the packets of the client and of the daemon; `bursts` the operations of each piece of bytes."""

    def __init__(self, socket: Path, daemon: Path) -> None:
        self.socket = socket
        self.asked: list[Packet] = []
        self.said: list[Packet] = []
        self.bursts: list[list[Operation]] = []
        self.open = asyncio.Event()  # replies pass
        self.open.set()
        self.stepwise = False  # `open` lets one packet through, and no more
        self.changed = asyncio.Condition()
        self._daemon = daemon
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self) -> None:
        """Let clients in."""
        self._server = await asyncio.start_unix_server(self._join, self.socket)

    async def leave(self) -> None:
        """Let nobody in, and cut whoever is."""
        assert self._server is not None
        self._server.close()
        self.socket.unlink()
        self.cut()

    def cut(self) -> None:
        """Every connection is lost."""
        for writer in self._writers:
            writer.transport.abort()

    async def until_asked(self, operation: Operation, times: int = 1) -> None:
        """Until the client has asked for it that often."""
        async with self.changed:
            await self.changed.wait_for(lambda: self.operations().count(operation) >= times)

    def operations(self) -> list[Operation]:
        """What the client asked for."""
        return [packet.operation for packet in self.asked]

    def watched(self) -> set[tuple[str, str]]:
        """The watches that the client has and did not end."""
        found: set[tuple[str, str]] = set()
        for packet in self.asked:
            path, token = [*strings(packet.untrusted_payload), "", ""][:2]
            if packet.operation is Operation.WATCH:
                found.add((path, token))
            elif packet.operation is Operation.UNWATCH:
                found.discard((path, token))
        return found

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection(sock=await connected(self._daemon))
        self._writers |= {writer, far_writer}
        for task in (
            asyncio.create_task(self._up(reader, far_writer)),
            asyncio.create_task(self._down(far_reader, writer)),
        ):
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                packets = decoder.feed(data)
                async with self.changed:
                    self.asked += packets
                    self.bursts.append([packet.operation for packet in packets])
                    self.changed.notify_all()
                writer.write(data)
        writer.close()

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        decoder = Decoder()
        with suppress(OSError):
            while data := await reader.read(1 << 16):
                for packet in decoder.feed(data):
                    await self.open.wait()
                    if self.stepwise:
                        self.open.clear()
                    self.said.append(packet)
                    writer.write(encode_packet(packet))
        writer.close()

    async def end(self) -> None:
        """Everything is closed."""
        self.open.set()
        self.cut()
        if self._server is not None:
            self._server.close()
        while self._tasks:
            await asyncio.wait(set(self._tasks))
        for writer in self._writers:
            with suppress(OSError):
                await writer.wait_closed()


@asynccontextmanager
async def relaying(directory: Path, daemon: Path) -> AsyncIterator[Relay]:
    """A relay that is ready."""
    relay = Relay(directory / "relay", daemon)
    await relay.listen()
    try:
        yield relay
    finally:
        await relay.end()
