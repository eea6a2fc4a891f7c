# SPDX-License-Identifier: Apache-2.0
"""A crash after each thing the store makes durable: the request, sent again, has one effect and one answer."""

import asyncio
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.daemon import running, with_daemon
from tests.xenopsd.machines import full_machine, id_of, plain_vm
from xenops.bus.port import Message
from xenops.client import Xenops
from xenops.errors import TimedOut
from xenops.idl import methods
from xenops.interfaces import xenops as api
from xenops.rpc import request
from xenops.types.metadata import Metadata
from xenops.types.vbd import Vbd
from xenops.types.vif import Vif
from xenops.wire import decode_result
from xenopsd.main import Daemon
from xenopsd.store.database import Database

METHODS = {**methods(api.VM), **methods(api.VBD), **methods(api.VIF), **methods(api.Task)}
TASK = object()  # stands for the id of a task that has ended
REQUESTS: list[tuple[str, tuple[Any, ...]]] = [
    ("VM.add", (plain_vm("vm-2"),)),
    ("VM.add", (plain_vm("vm-1"),)),
    ("VM.rename", ("vm-1", "new")),
    ("VM.remove", ("vm-1",)),
    ("VM.import_metadata", (msgspec.to_builtins(full_machine("vm-2").metadata()),)),
    ("VBD.add", (Vbd(id=id_of("vm-1", "new")),)),
    ("VBD.remove", (id_of("vm-1", "xvda"),)),
    ("VIF.add", (Vif(id=id_of("vm-1", "2"), position=2, mac="random"),)),
    ("VIF.remove", (id_of("vm-1", "0"),)),
    ("Task.destroy", (TASK,)),
]


class Snapshots:
    """What is on the disk after each transaction: a crash at any moment leaves one of them behind."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder, self.taken = folder, 0
        transaction = Database._transaction

        def observed(database: Database, writes: list[Any]) -> Any:
            refused = transaction(database, writes)
            if writes:
                self.take(database.path)
            return refused

        monkeypatch.setattr(Database, "_transaction", observed)

    def take(self, path: Path) -> None:
        target = self._folder / str(self.taken) / "xenopsd.db"
        target.parent.mkdir(parents=True)
        source, copy = sqlite3.connect(path), sqlite3.connect(target)
        source.backup(copy)
        source.close()
        copy.close()
        self.taken += 1

    def states(self) -> Iterable[Path]:
        return [self._folder / str(n) for n in range(self.taken)]


async def prepared(xenops: Xenops) -> str:
    """A machine of every device, and the id of a task that has ended."""
    await xenops.VM.import_metadata(msgspec.to_builtins(full_machine("vm-1").metadata()))
    task = await xenops.VM.delay("vm-1", 0.0)
    await xenops.Task.wait(task)
    return task


async def asked(xenops: Xenops, message: Message) -> bytes:
    return (await xenops.bus.call(xenops.queue, message, timeout_s=10.0)).body


async def world(xenops: Xenops) -> list[Metadata]:
    return [await xenops.VM.export_metadata(stat.vm.id) for stat in await xenops.VM.list()]


@pytest.mark.parametrize(("name", "args"), REQUESTS, ids=[f"{n}-{name}" for n, (name, _) in enumerate(REQUESTS)])
def test_a_crash_at_any_moment(
    name: str, args: tuple[Any, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with running(tmp_path / "first") as (daemon, xenops):
            task = await prepared(xenops)
            await daemon.database.persist()
            snapshots = Snapshots(tmp_path / "moments", monkeypatch)
            snapshots.take(daemon.database.path)
            message = request(METHODS[name], tuple(task if arg is TASK else arg for arg in args), {})
            message.message_id = "asked-twice"
            answer = await asked(xenops, message)
            decode_result(answer, METHODS[name].result)  # it was no fault
            after = await world(xenops)
        states = list(snapshots.states())
        assert len(states) >= 2
        monkeypatch.undo()
        for state in states:
            async with running(state) as (_, xenops):
                assert await asked(xenops, message) == answer, f"after {state.name} transactions"
                now = await world(xenops)
                if name != "VIF.add":  # whose address is drawn again when it was not written yet
                    assert now == after
                assert await asked(xenops, message) == answer

    async def bounded() -> None:
        async with asyncio.timeout(60):
            await run()

    asyncio.run(bounded())


def test_a_request_whose_reply_was_not_waited_for_is_answered_when_asked_again(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        busy = await xenops.VM.delay("vm-1", 3600.0)  # the removal waits for its turn, and the caller does not
        message = request(METHODS["VM.remove"], ("vm-1",), {})
        with pytest.raises(TimedOut):
            await xenops.bus.call(xenops.queue, message, timeout_s=0.2)
        again = asyncio.create_task(asked(xenops, message))
        await xenops.Task.cancel(busy)
        assert decode_result(await again, METHODS["VM.remove"].result) is None
        assert not await xenops.VM.exists("vm-1")
        assert await asked(xenops, message) == await again

    with_daemon(tmp_path, work)
