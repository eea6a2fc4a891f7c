# SPDX-License-Identifier: Apache-2.0
"""A connection that is lost: what was under way fails, everything else goes on with the next one."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.xenopsd.xen.xenstore.relay import Relay, relaying
from tests.xenopsd.xen.xenstore.test_client import store
from xenops.errors import IoError, StepTimedOut
from xenopsd.backends.xen.xenstore.client import Write, XenStore
from xenopsd.backends.xen.xenstore.wire import Operation, Packet, encode_packet


def test_what_was_under_way_fails_and_what_comes_later_does_not(daemon: Path, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            relay.open.clear()
            reading = asyncio.create_task(xs.read(place))
            await relay.until_asked(Operation.READ)
            relay.cut()
            with pytest.raises(IoError, match=f"relay .*was lost during READ {place}; it may or may not be done"):
                await reading
            relay.open.set()
            await xs.write(place, "after")
            assert await xs.read(place) == "after"

    asyncio.run(main())


def test_no_transaction_outlives_its_connection(daemon: Path, place: str, tmp_path: Path) -> None:
    async def lose(xs: XenStore, relay: Relay) -> None:
        async with xs.transaction() as transaction:
            await transaction.write(place, "half")
            relay.cut()
            while "tool" not in await _listed(xs):
                pass  # until there is a new connection

    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            with pytest.raises(IoError, match="was lost during TRANSACTION_END"):
                await lose(xs, relay)
            assert await xs.tree(place) == {}

    asyncio.run(main())


def test_watches_come_back_and_fire_once_more(daemon: Path, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with store(daemon) as guest, relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:  # noqa: SIM117
            async with xs.watch(place) as events:
                assert await anext(events) == place
                await relay.leave()
                await guest.write(f"{place}/a", "nobody could tell")
                await relay.listen()
                assert await anext(events) == place
                await guest.write(f"{place}/b", "")
                assert await anext(events) == f"{place}/b"

    asyncio.run(main())


def test_a_waiter_sees_what_happened_while_there_was_no_connection(daemon: Path, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with store(daemon) as guest, relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            waiting = asyncio.create_task(xs.wait_for([place], lambda values: values[place] == "done", 20))
            await relay.until_asked(Operation.READ)
            await relay.leave()
            await guest.write(place, "done")
            await relay.listen()
            assert await waiting == {place: "done"}

    asyncio.run(main())


def test_a_daemon_that_stays_away(daemon: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket, timeout_s=0.3) as xs:
            await xs.ls("/")
            await relay.leave()
            with suppress(IoError):
                await xs.ls("/")  # its fault is that the connection was lost, if nobody had noticed yet
            with pytest.raises(IoError, match=r"could not be reached for 0\.3 s"):
                await xs.ls("/")
            await relay.listen()
            while "tool" not in await _listed(xs):
                pass

    asyncio.run(main())


async def _listed(xs: XenStore) -> list[str]:
    try:
        return await xs.ls("/")
    except IoError:
        return []


def test_closing_ends_whoever_waits(daemon: Path, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            waiting = asyncio.create_task(xs.wait_for([place], lambda values: False, 20))
            await relay.until_asked(Operation.READ)
            await xs.read(place)
            relay.open.clear()
            reading = asyncio.create_task(xs.read(place))
            await relay.until_asked(Operation.READ, 3)
            await xs.close()
            with pytest.raises(IoError, match="lost during READ"):
                await reading
            with pytest.raises(IoError):
                await waiting
            with pytest.raises(IoError, match="was closed"):
                await xs.read(place)
            with pytest.raises(IoError, match="was closed"):
                await xs.commit([Write(place), Write(place)])

    asyncio.run(main())


def test_a_client_that_is_closed_at_once(daemon: Path) -> None:
    async def main() -> None:
        xs = await XenStore.connect(str(daemon))
        await xs.close()
        await xs.close()
        with pytest.raises(IoError, match="was closed"):
            await xs.ls("/")

    asyncio.run(main())


class Liar(asyncio.Protocol):
    """Says the same bytes to whatever is asked, and goes."""

    def __init__(self, untrusted_answer: bytes, there: "set[asyncio.Transport]") -> None:
        self._answer = untrusted_answer
        self._there = there

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._there.add(transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(self._answer)
        self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._there.discard(self._transport)


@asynccontextmanager
async def _lying(socket: Path, untrusted_answer: bytes) -> AsyncIterator[None]:
    there: set[asyncio.Transport] = set()
    server = await asyncio.get_running_loop().create_unix_server(lambda: Liar(untrusted_answer, there), str(socket))
    try:
        yield
    finally:
        server.close()
        while there:
            next(iter(there)).abort()
            await asyncio.sleep(0)


_PACKETS = st.builds(Packet, st.sampled_from(Operation), st.integers(0, 3), st.integers(0, 2), st.binary(max_size=30))
_ANSWERS = st.one_of(
    st.binary(max_size=60), st.lists(_PACKETS, max_size=4).map(lambda p: b"".join(map(encode_packet, p)))
)


@settings(max_examples=30, deadline=None)
@given(untrusted_answer=_ANSWERS)
def test_nothing_that_a_daemon_says_does_harm(
    tmp_path_factory: pytest.TempPathFactory, untrusted_answer: bytes
) -> None:
    socket = tmp_path_factory.mktemp("liar") / "socket"

    async def main() -> None:
        async with _lying(socket, untrusted_answer), store(socket, timeout_s=0.1) as xs:
            for call in (
                xs.ls("/"),
                xs.is_introduced(1),
                xs.commit([Write("/a"), Write("/b")]),
                xs.wait_for(["/a"], lambda values: True, 0.02),
            ):
                with suppress(IoError, StepTimedOut):  # and nothing else
                    await call

    asyncio.run(main())
