# SPDX-License-Identifier: Apache-2.0
"""Passwords are checked beside the event loop: however many log in at once, messages go on."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pika import frame, spec

from message_switch.access import checks
from message_switch.access.users import Guess, Users, hashed
from message_switch.frames import GREETING
from message_switch.model.broker import Broker
from message_switch.server import Server
from message_switch.switch import Switch

FILE = f'[web]\npassword = "{hashed(b"right")}"\n'
CAPABLE = {"capabilities": {"authentication_failure_close": True}}
PATIENCE_S = 20


def said(number: int, *methods: Any) -> bytes:
    return b"".join(frame.Method(number, method).marshal() for method in methods)


def hello(user: str, password: str) -> bytes:
    start = spec.Connection.StartOk(CAPABLE, "PLAIN", f"\0{user}\0{password}")
    return GREETING + said(0, start, spec.Connection.TuneOk(10, 4096, 0), spec.Connection.Open("/"))


class Client:
    """One connection, by hand: it says everything without waiting for an answer."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def next(self) -> Any:
        head = await self.reader.readexactly(7)
        rest = await self.reader.readexactly(int.from_bytes(head[3:], "big") + 1)
        return frame.decode_frame(head + rest)[1].method

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Door:
    """Stands for scrypt: keeps whoever checks until it is opened, and counts them."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.entered = threading.Semaphore(0)
        self.inside = self.most = self.checks = 0
        self._lock = threading.Lock()
        self._holds = Guess.holds

    def holds(self, guess: Guess) -> bool:
        with self._lock:
            self.checks += 1
            self.inside += 1
            self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.open.wait(PATIENCE_S)
        with self._lock:
            self.inside -= 1
        return self._holds(guess)


@pytest.fixture
def door(monkeypatch: pytest.MonkeyPatch) -> Iterator[Door]:
    it = Door()
    monkeypatch.setattr(Guess, "holds", lambda guess: it.holds(guess))
    yield it
    it.open.set()


@asynccontextmanager
async def serving() -> AsyncIterator[Server]:
    users = Users("own", "secret")
    users.read(FILE)
    server = Server(Switch(Broker(), users), version="0")
    await server.listen_tcp("127.0.0.1", 0)
    async with asyncio.timeout(PATIENCE_S):
        yield server
        await server.close()


async def connected(server: Server, user: str, password: str) -> Client:
    client = Client(*await asyncio.open_connection("127.0.0.1", server.port))
    client.writer.write(hello(user, password))
    assert (await client.next()).NAME == "Connection.Start"
    return client


def test_messages_go_on_while_many_log_in(door: Door) -> None:
    async def storm() -> None:
        async with serving() as server:
            right = [await connected(server, "web", "right") for _ in range(10)]
            wrong = [await connected(server, "web", f"wrong {n}") for n in range(10)]
            assert await asyncio.to_thread(door.entered.acquire, timeout=PATIENCE_S)
            own = await connected(server, "own", "secret")  # is known without a check, and at once
            assert [(await own.next()).NAME for _ in range(2)] == ["Connection.Tune", "Connection.OpenOk"]
            own.writer.write(said(1, spec.Channel.Open(), spec.Queue.Declare(0, "", exclusive=True)))
            assert [(await own.next()).NAME for _ in range(2)] == ["Channel.OpenOk", "Queue.DeclareOk"]
            door.open.set()
            for client in right:
                assert [(await client.next()).NAME for _ in range(2)] == ["Connection.Tune", "Connection.OpenOk"]
            for client in wrong:
                refused = await client.next()
                assert (refused.NAME, refused.reply_code) == ("Connection.Close", 403)
            for client in (own, *right, *wrong):
                await client.close()

    asyncio.run(storm())
    assert door.most <= checks.AT_ONCE
    assert 10 < door.checks <= 10 + checks.AT_ONCE  # of those who are right, none but the first are checked


def test_who_has_gone_meanwhile_is_not_checked(door: Door) -> None:
    async def leave() -> None:
        async with serving() as server:
            first = await connected(server, "web", "wrong")
            assert await asyncio.to_thread(door.entered.acquire, timeout=PATIENCE_S)
            others = [await connected(server, "web", f"wrong {n}") for n in range(checks.AT_ONCE + 10)]
            for other in others:
                await other.close()
            while len(server.connections) > 1:  # noqa: ASYNC110
                await asyncio.sleep(0)
            before = door.checks
            door.open.set()
            assert (await first.next()).reply_code == 403
            assert door.checks == before <= checks.AT_ONCE
            await first.close()

    asyncio.run(leave())


def test_too_many_are_told_to_come_back(door: Door, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "WAITING_MAX", 2)

    async def crowd() -> None:
        async with serving() as server:
            waiting = [await connected(server, "web", f"wrong {n}") for n in range(checks.AT_ONCE + 2)]
            late = await connected(server, "web", "right")
            assert (await late.next()).reply_code == 506
            door.open.set()
            for client in waiting:
                assert (await client.next()).reply_code == 403
            for client in (*waiting, late):
                await client.close()

    asyncio.run(crowd())


def test_who_talks_on_without_end_before_it_is_let_in_is_stopped(door: Door) -> None:
    async def talk() -> None:
        async with serving() as server:
            client = await connected(server, "web", "right")
            client.writer.write(said(1, spec.Channel.Open()) * 300)
            assert (await client.next()).reply_code == 506
            await client.close()

    asyncio.run(talk())
