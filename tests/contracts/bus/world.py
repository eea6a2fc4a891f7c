# SPDX-License-Identifier: Apache-2.0
"""A bus of some kind with what a test needs around it: connections that can be cut, and names that nobody else uses."""

import asyncio
import functools
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

import kombu

from xenops.bus.amqp import AmqpBus
from xenops.bus.memory import MemoryBus, MemorySwitch
from xenops.bus.port import DEAD_QUEUE, Bus

from .proxy import Proxy

TEST_S = 30.0


class World(Protocol):
    """One switch, and the buses of one test."""

    async def bus(self, *, connected: bool = True) -> Bus:
        """Another connection."""

    async def cut(self, bus: Bus) -> None:
        """Take a connection away; it comes back by itself."""

    async def stop(self) -> None:
        """Nobody can reach the switch."""

    async def start(self) -> None:
        """Everybody can again."""

    async def dead_letters(self) -> list[bytes]:
        """The bodies in the queue of dead letters, which is emptied."""

    async def finish(self) -> None:
        """Close everything."""


def name(what: str) -> str:
    """A name that no other test uses."""
    return f"xenops.{what}.{secrets.token_hex(4)}"


class MemoryWorld:
    """All in one process."""

    def __init__(self) -> None:
        self._switch = MemorySwitch()
        self._buses: list[MemoryBus] = []
        self._reachable = True

    async def bus(self, *, connected: bool = True) -> Bus:
        bus = MemoryBus(self._switch)
        self._buses.append(bus)
        if connected and self._reachable:
            await bus.connect()
        return bus

    async def cut(self, bus: Bus) -> None:
        assert isinstance(bus, MemoryBus)
        bus.disconnect()
        asyncio.get_running_loop().call_soon(bus.reconnect)

    async def stop(self) -> None:
        self._reachable = False
        for bus in self._buses:
            bus.disconnect()

    async def start(self) -> None:
        self._reachable = True
        for bus in self._buses:
            bus.reconnect()

    async def dead_letters(self) -> list[bytes]:
        bodies = [message.body for message in self._switch.dead]
        self._switch.dead.clear()
        return bodies

    async def finish(self) -> None:
        for bus in self._buses:
            await bus.close()


class AmqpWorld:
    """A real broker; every connection goes through a proxy of its own."""

    def __init__(self, broker_port: int) -> None:
        self._broker_port = broker_port
        self._buses: dict[Bus, Proxy] = {}
        self._reachable = True

    @property
    def url(self) -> str:
        """The broker itself, for foreign clients."""
        return f"amqp://guest:guest@127.0.0.1:{self._broker_port}/%2F"

    async def bus(self, *, connected: bool = True) -> Bus:
        proxy = await self.proxy()
        bus: Bus = AmqpBus(f"amqp://guest:guest@127.0.0.1:{proxy.port}/%2F")
        self._buses[bus] = proxy
        if not self._reachable:
            proxy.stop()
        if connected:
            await bus.connect(5)
        return bus

    async def proxy(self) -> Proxy:
        """A way to the broker that can be cut; whoever asks for one finishes it."""
        proxy = Proxy(self._broker_port)
        await proxy.start()
        return proxy

    async def cut(self, bus: Bus) -> None:
        self._buses[bus].cut()

    async def stop(self) -> None:
        self._reachable = False
        for proxy in self._buses.values():
            proxy.stop()

    async def start(self) -> None:
        self._reachable = True
        for proxy in self._buses.values():
            await proxy.start()

    async def dead_letters(self) -> list[bytes]:
        return await asyncio.to_thread(self._take_dead_letters)

    def _take_dead_letters(self) -> list[bytes]:
        bodies = []
        with kombu.Connection(self.url) as connection:
            channel = connection.channel()
            while (message := channel.basic_get(DEAD_QUEUE, no_ack=True)) is not None:
                body = message.body
                bodies.append(body.encode() if isinstance(body, str) else bytes(body))
        return bodies

    async def finish(self) -> None:
        for bus, proxy in self._buses.items():
            await bus.close()
            await proxy.finish()


def scenario(test: Callable[[Any], Coroutine[Any, Any, None]]) -> Callable[[Any], None]:
    """Let a coroutine of one world be a test."""

    @functools.wraps(test)
    def play(*given: World, **fixture: World) -> None:
        (world,) = (*given, *fixture.values())

        async def whole() -> None:
            try:
                async with asyncio.timeout(TEST_S):
                    await test(world)
            finally:
                await world.finish()

        asyncio.run(whole())

    return play
