# SPDX-License-Identifier: Apache-2.0
"""Watches: nothing is missed, nothing is polled, nothing is left behind, and a guest that writes like mad costs little."""

import asyncio
from pathlib import Path

import pytest

from tests.xenopsd.xen.xenstore.relay import relaying
from tests.xenopsd.xen.xenstore.test_client import store
from xenops.errors import IoError, StepTimedOut
from xenopsd.backends.xen.xenstore.client import Values, Write
from xenopsd.backends.xen.xenstore.watches import LIMIT, Watch
from xenopsd.backends.xen.xenstore.wire import Operation


def test_a_watch_tells_what_changed(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs, xs.watch(place) as events:
            assert await anext(events) == place, "it fires once in the beginning"
            await xs.write(f"{place}/a", "1")
            assert await anext(events) == f"{place}/a"
            await xs.commit([Write(f"{place}/b", "1", ("n0",)), Write(f"{place}/c", "1", ("n0",))])
            assert {await anext(events), await anext(events)} == {f"{place}/b", f"{place}/c"}

    asyncio.run(main())


def test_domains_that_come_and_go(daemon: Path) -> None:
    async def main() -> None:
        async with store(daemon) as xs, xs.watch("@introduceDomain", "@releaseDomain") as events:
            assert {await anext(events), await anext(events)} == {"@introduceDomain", "@releaseDomain"}
            await xs.introduce(15, 1000, 3)
            assert await anext(events) == "@introduceDomain"
            await xs.release(15)
            assert await anext(events) == "@releaseDomain"

    asyncio.run(main())


def test_a_path_that_cannot_be_watched(daemon: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            for path in ("/with space", "/nul\0inside"):
                with pytest.raises(IoError, match="WATCH was refused with EINVAL"):
                    async with xs.watch("/tool", path):
                        raise AssertionError("there is no such watch")
            await xs.ls("/")
            assert relay.watched() == set()

    asyncio.run(main())


def test_waiting_ends_with_the_values_that_were_waited_for(daemon: Path, place: str, tmp_path: Path) -> None:
    paths = [f"{place}/state", f"{place}/error"]

    def settled(values: Values) -> bool:
        return values[paths[0]] == "4" or values[paths[1]] is not None

    async def main() -> None:
        async with store(daemon) as guest, relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            waiting = asyncio.create_task(xs.wait_for(paths, settled, 20))
            await relay.until_asked(Operation.READ, 2)
            for state in "123":
                await guest.write(paths[0], state)
            assert not waiting.done()
            await guest.write(paths[0], "4")
            assert await waiting == {paths[0]: "4", paths[1]: None}
            assert await xs.wait_for(paths, settled, 20) == {paths[0]: "4", paths[1]: None}
            await xs.ls("/")
            assert relay.watched() == set()

    asyncio.run(main())


def test_waiting_polls_nothing(daemon: Path, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            with pytest.raises(StepTimedOut, match=f"waiting for {place} in xenstore"):
                await xs.wait_for([place], lambda values: values[place] is not None, 0.3)
            await xs.ls("/")
            assert relay.operations() == [Operation.WATCH, Operation.READ, Operation.UNWATCH, Operation.DIRECTORY]
            assert relay.watched() == set()

    asyncio.run(main())


@pytest.mark.parametrize("moment", [Operation.WATCH, Operation.READ])
def test_a_waiter_can_be_cancelled_at_any_moment(daemon: Path, place: str, tmp_path: Path, moment: Operation) -> None:
    async def main() -> None:
        async with store(daemon) as guest, relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            if moment is Operation.WATCH:
                relay.open.clear()
            waiting = asyncio.create_task(xs.wait_for([place], lambda values: False, 20))
            await relay.until_asked(moment)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await guest.write(place, "a late event")
            relay.open.set()
            await relay.until_asked(Operation.UNWATCH)
            assert relay.watched() == set()
            assert await xs.read(place) == "a late event"
            events = [packet.operation for packet in relay.said].count(Operation.WATCH_EVENT)
            await guest.write(place, "nobody looks")
            assert await xs.read(place) == "nobody looks"
            assert [packet.operation for packet in relay.said].count(Operation.WATCH_EVENT) == events

    asyncio.run(main())


def test_a_guest_that_writes_like_mad(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as guest, store(daemon) as xs, xs.watch(place) as events:
            for number in range(40):
                await guest.commit([Write(f"{place}/same", str(n), ("n0",)) for n in range(number, number + 10)])
            await xs.ls("/")
            events.fire("the last")
            seen = []
            while not seen or seen[-1] != "the last":
                seen.append(await anext(events))
            assert len(seen) <= 3, "many changes of one path are one event"

    asyncio.run(main())


def test_too_many_paths_are_one_again() -> None:
    async def main() -> None:
        watch = Watch(("/watched",), "token")
        for number in range(LIMIT + 1):
            watch.fire(f"/watched/{number}")
        watch.close()
        assert [path async for path in watch] == ["/watched", f"/watched/{LIMIT}"]

    asyncio.run(main())


def test_all_watches_begin_anew(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs, xs.watch(place) as events:
            assert await anext(events) == place
            await xs.reset_watches()
            assert await anext(events) == place
            await xs.write(f"{place}/a", "")
            assert await anext(events) == f"{place}/a"

    asyncio.run(main())
