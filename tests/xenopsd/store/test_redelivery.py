# SPDX-License-Identifier: Apache-2.0
"""A request that comes again, in the same life of the daemon or the next, is never carried out twice."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tests.xenopsd.daemon import with_daemon
from tests.xenopsd.machines import plain_vm
from xenops.bus.port import Message
from xenops.client import Xenops
from xenops.idl import methods
from xenops.interfaces.xenops import VM
from xenops.rpc import request
from xenopsd.main import Daemon, kept_up


def start(message_id: str) -> Message:
    message = request(methods(VM)["VM.start"], ("vm-1",), {})
    message.message_id = message_id
    return message


def test_a_crash_between_the_journal_and_the_reply(tmp_path: Path) -> None:
    replies: list[bytes] = []

    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        replies.append((await xenops.bus.call(xenops.queue, start("m-1"), timeout_s=10.0)).body)

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        assert daemon.outcomes.recall("m-1") is None
        replies.append((await xenops.bus.call(xenops.queue, start("m-1"), timeout_s=10.0)).body)
        (task,) = await xenops.Task.list()
        await xenops.finished(task.id)

    with_daemon(tmp_path, first)
    database = sqlite3.connect(tmp_path / "xenopsd.db")
    database.execute("DELETE FROM outcomes")  # the crash took what was not waited for
    database.commit()
    database.close()
    with_daemon(tmp_path, second)
    assert replies[0] == replies[1]


def test_message_ids_go_with_their_tasks_and_outcomes_stay(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        first = (await xenops.bus.call(xenops.queue, start("m-1"), timeout_s=10.0)).body
        assert daemon.control.has_task("m-1")
        (task,) = await xenops.Task.list()
        await xenops.finished(task.id)
        assert not daemon.control.has_task("m-1")
        assert (await xenops.bus.call(xenops.queue, start("m-1"), timeout_s=10.0)).body == first
        assert await xenops.Task.list() == []

    with_daemon(tmp_path, work)


def test_an_outcome_without_a_task_is_durable_before_it_is_told(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        add = request(methods(VM)["VM.add"], (plain_vm(),), {})
        await xenops.bus.call(xenops.queue, add, timeout_s=10.0)
        other = sqlite3.connect(tmp_path / "xenopsd.db")
        found = other.execute("SELECT message_id FROM outcomes").fetchall()
        other.close()
        assert found == [(add.message_id,)]

    with_daemon(tmp_path, work)


def test_what_goes_on_beside_begins_again_after_a_failure(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xenopsd.main._AGAIN_S", 0.0)
    tries: list[int] = []

    async def work() -> None:
        tries.append(1)
        if len(tries) == 1:
            raise ValueError("a mistake")

    asyncio.run(kept_up("counting", work))
    assert len(tries) == 2
    assert "counting failed" in caplog.text
