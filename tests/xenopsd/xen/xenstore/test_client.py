# SPDX-License-Identifier: Apache-2.0
"""The client, on Debian's own daemons: every operation, subtrees in one transaction, and what goes wrong."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.xenopsd.xen.xenstore.relay import relaying
from xenops.errors import IoError
from xenopsd.backends.xen.xenstore.client import Change, Mkdir, Remove, SetPerms, Transaction, Write, XenStore
from xenopsd.backends.xen.xenstore.wire import Operation


@asynccontextmanager
async def store(socket: Path, timeout_s: float = 20.0) -> AsyncIterator[XenStore]:
    xs = await XenStore.connect(str(socket), timeout_s=timeout_s)
    try:
        yield xs
    finally:
        await xs.close()


def test_nodes(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs:
            assert await xs.read(place) is None
            assert await xs.ls(place) == []
            assert await xs.get_perms(place) is None
            await xs.rm(f"{place}/never/was")
            await xs.write(f"{place}/a/b", "value")
            await xs.mkdir(f"{place}/empty")
            await xs.set_perms(f"{place}/a/b", ("n0", "r7"))
            assert await xs.read_many([f"{place}/a/b", f"{place}/c", f"{place}/empty"]) == ["value", None, ""]
            assert sorted(await xs.ls(place)) == ["a", "empty"]
            assert await xs.ls(f"{place}/empty") == []
            assert await xs.get_perms(f"{place}/a/b") == ("n0", "r7")
            assert await xs.tree(place) == {
                place: "",
                f"{place}/a": "",
                f"{place}/a/b": "value",
                f"{place}/empty": "",
            }
            await xs.rm(place)
            assert await xs.tree(place) == {}

    asyncio.run(main())


@pytest.mark.parametrize("value", [b"", b"\0in\0side\0", bytes(range(256)), "ümlaut", "x" * 2000])
def test_a_value_comes_back_as_it_was(daemon: Path, place: str, value: str | bytes) -> None:
    async def main() -> str | None:
        async with store(daemon) as xs:
            await xs.write(place, value)
            return await xs.read(place)

    wanted = value if isinstance(value, bytes) else value.encode()
    assert (asyncio.run(main()) or "").encode("utf-8", "surrogateescape") == wanted


def test_a_directory_that_fits_into_no_packet(daemon: Path, place: str) -> None:
    names = [f"{'entry':->30}-{number}" for number in range(400)]

    async def main() -> None:
        async with store(daemon) as xs:
            await xs.commit([Write(f"{place}/{name}", name) for name in names])
            assert sorted(await xs.ls(place)) == sorted(names)
            assert await xs.tree(place) == {place: "", **{f"{place}/{name}": name for name in names}}

    asyncio.run(main())


def test_a_long_directory_that_changes_while_it_is_read(xenstored: Path, place: str, tmp_path: Path) -> None:
    names = {f"{'entry':->30}-{number}" for number in range(400)}

    async def main() -> None:
        async with store(xenstored) as other, relaying(tmp_path, xenstored) as relay, store(relay.socket) as xs:
            await other.commit([Write(f"{place}/{name}") for name in names])
            relay.stepwise = True
            listing = asyncio.create_task(xs.ls(place))
            await relay.until_asked(Operation.DIRECTORY_PART, 1)
            relay.open.set()
            await relay.until_asked(Operation.DIRECTORY_PART, 2)
            await other.rm(f"{place}/{min(names)}")
            relay.open.set()
            await relay.until_asked(Operation.DIRECTORY_PART, 3)  # of a directory that is another one now
            relay.stepwise = False
            relay.open.set()
            got = set(await listing)
            assert got == names - {min(names)}

    asyncio.run(main())


def test_domains(daemon: Path) -> None:
    async def main() -> None:
        async with store(daemon) as xs:
            assert not await xs.is_introduced(5)
            await xs.introduce(5, 1000, 3)
            await xs.introduce(6, 1001, 4)
            assert await xs.is_introduced(5)
            assert await xs.domain_path(5) == "/local/domain/5"
            await xs.set_target(6, 5)
            await xs.resume(5)
            await xs.release(6)
            await xs.release(5)
            assert not await xs.is_introduced(5)
            with pytest.raises(IoError, match="RELEASE was refused with E"):
                await xs.release(5)

    asyncio.run(main())


def test_control(xenstored: Path, oxenstored: Path) -> None:
    async def main() -> None:
        async with store(xenstored) as xs:
            assert "memreport" in await xs.control("help")
            with pytest.raises(IoError, match="CONTROL was refused with EINVAL"):
                await xs.control("no-such-command")
        async with store(oxenstored) as xs:
            assert await xs.control("print", "anything") == "OK"

    asyncio.run(main())


@pytest.mark.parametrize("path", ["", "/with space", "//", "/nul\0inside", "/" + "x" * 3100, "/\ud800"])
def test_what_is_no_path_is_refused_and_nothing_else_suffers(daemon: Path, path: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs:
            with pytest.raises(IoError, match="WRITE was refused with E"):
                await xs.write(path, "")
            assert "tool" in await xs.ls("/")

    asyncio.run(main())


def test_a_value_that_is_too_long_is_refused_and_nothing_else_suffers(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs:
            other = asyncio.create_task(xs.ls("/"))
            with pytest.raises(IoError, match=f"{place} .*WRITE was refused with E2BIG"):
                await xs.commit([Write(f"{place}/before", ""), Write(place, bytes(4096))])
            assert "tool" in await other
            assert await xs.tree(place) == {}

    asyncio.run(main())


def test_many_calls_under_way_at_once(daemon: Path, place: str) -> None:
    async def one(xs: XenStore, number: int) -> str | None:
        await xs.commit([Write(f"{place}/{number}", str(number), ("n0",)), Mkdir(f"{place}/{number}/below")])
        return await xs.read(f"{place}/{number}")

    async def main() -> None:
        async with store(daemon) as xs:
            got = await asyncio.gather(*(one(xs, number) for number in range(60)))
            assert got == [str(number) for number in range(60)]

    asyncio.run(main())


CHANGES: list[Change] = [
    Remove("/old"),
    Mkdir("", ("n0", "r9")),
    *[Write(f"/device/{number}", str(number), ("n9", "r0")) for number in range(30)],
    SetPerms("/device/7", ("n0",)),
]


def _below(place: str) -> list[Change]:
    return [type(change)(**{**_fields(change), "path": place + change.path}) for change in CHANGES]


def _fields(change: Change) -> dict[str, object]:
    return {name: getattr(change, name) for name in change.__slots__}


def test_a_subtree_is_one_burst_in_one_transaction(daemon: Path, place: str, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            await xs.commit(_below(place))
            assert relay.bursts[0] == [Operation.TRANSACTION_START]
            assert len(relay.bursts[1]) == 1 + 2 + 60 + 1
            assert relay.bursts[2:] == [[Operation.TRANSACTION_END]]
            assert len({packet.transaction for packet in relay.asked[1:]}) == 1
            assert len(await xs.ls(f"{place}/device")) == 30
            assert await xs.get_perms(place) == ("n0", "r9")
            assert await xs.get_perms(f"{place}/device/7") == ("n0",)
            await xs.commit([Remove(place)])
            assert relay.asked[-1].transaction == 0, "a single change needs no transaction"
            await xs.commit([])
            assert relay.operations()[-1] is Operation.RM

    asyncio.run(main())


def test_all_or_nothing(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs:
            with pytest.raises(IoError, match=rf"{place}/missing .*SET_PERMS was refused with ENOENT"):
                await xs.commit([*_below(place), SetPerms(f"{place}/missing", ("n0",))])
            assert await xs.tree(place) == {}

    asyncio.run(main())


def test_what_is_read_and_written_again_loses_nothing(daemon: Path, place: str) -> None:
    async def add(transaction: Transaction) -> None:
        value = int(await transaction.read(place) or "0")
        await transaction.write(place, str(value + 1))

    async def main() -> None:
        async with store(daemon) as one, store(daemon) as two:
            await asyncio.gather(*([one.transact(add) for _ in range(15)] + [two.transact(add) for _ in range(15)]))
            assert await one.read(place) == "30"

    asyncio.run(main())


def test_others_see_a_transaction_when_it_is_committed(daemon: Path, place: str) -> None:
    async def main() -> None:
        async with store(daemon) as xs:
            async with xs.transaction() as transaction:
                await transaction.write(place, "1")
                assert await transaction.read(place) == "1"
                assert await xs.read(place) is None
            assert await xs.read(place) == "1"

            async def fail() -> None:
                async with xs.transaction() as transaction:
                    await transaction.rm(place)
                    raise ZeroDivisionError

            with pytest.raises(ZeroDivisionError):
                await fail()
            assert await xs.read(place) == "1"

    asyncio.run(main())


def test_who_is_too_late_hears_of_it(daemon: Path, place: str) -> None:
    async def be_late(xs: XenStore) -> None:
        async with xs.transaction() as transaction:
            await transaction.read(place)
            await transaction.write(place, "late")
            await xs.write(place, "first")

    async def main() -> None:
        async with store(daemon) as xs:
            with pytest.raises(IoError, match="EAGAIN"):
                await be_late(xs)
            assert await xs.read(place) == "first"

    asyncio.run(main())


def test_a_transaction_that_never_succeeds_is_given_up(xenstored: Path, place: str) -> None:
    async def main() -> None:
        async with store(xenstored) as xs:

            async def work(transaction: Transaction) -> None:
                await transaction.write(place, "late")
                await xs.write(place, "first")

            with pytest.raises(IoError, match="64 attempts"):
                await xs.transact(work)

    asyncio.run(main())


def test_who_is_cancelled_leaves_no_transaction_behind(daemon: Path, tmp_path: Path, place: str) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket) as xs:
            relay.open.clear()
            committing = asyncio.create_task(xs.commit(_below(place)))
            await relay.until_asked(Operation.TRANSACTION_START)
            committing.cancel()
            await asyncio.wait({committing})
            relay.open.set()
            await relay.until_asked(Operation.TRANSACTION_END)
            assert relay.asked[-1].untrusted_payload == b"F\0"
            assert relay.asked[-1].transaction != 0
            assert await xs.tree(place) == {}

    asyncio.run(main())


def test_a_daemon_that_does_not_answer(daemon: Path, tmp_path: Path) -> None:
    async def main() -> None:
        async with relaying(tmp_path, daemon) as relay, store(relay.socket, timeout_s=0.2) as xs:
            relay.open.clear()
            with pytest.raises(IoError, match=r"xenstore /tool .*did not answer READ within 0.2 s"):
                await xs.read("/tool")
            with pytest.raises(IoError, match="did not answer TRANSACTION_START"):
                await xs.commit([Write("/a", "", ("n0",))])
            relay.open.set()
            await relay.until_asked(Operation.TRANSACTION_END)  # the one that came too late
            assert "tool" in await xs.ls("/")

    asyncio.run(main())


def test_nobody_is_there(tmp_path: Path) -> None:
    with pytest.raises(IoError, match="xenstored cannot be reached"):
        asyncio.run(XenStore.connect(str(tmp_path / "nothing")))
