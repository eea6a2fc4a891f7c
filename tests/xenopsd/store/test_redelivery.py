# SPDX-License-Identifier: Apache-2.0
"""A request that comes again, in the same life of the daemon or the next, is never carried out twice."""

import asyncio
import sqlite3
import time
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import with_daemon
from tests.xenopsd.machines import full_machine, plain_vm
from xenops import wire
from xenops.bus.port import Message
from xenops.client import Xenops
from xenops.errors import BadRequest
from xenops.events import Kind
from xenops.idl import methods
from xenops.interfaces.xenops import VM
from xenops.rpc import request
from xenops.types.task import Completed, Failed
from xenopsd.engine.workers import Workers
from xenopsd.main import Daemon, kept_up


def start(message_id: str, vm: str = "vm-1") -> Message:
    message = request(methods(VM)["VM.start"], (vm,), {})
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
    forget_outcomes(tmp_path)
    with_daemon(tmp_path, second)
    assert replies[0] == replies[1]


def forget_outcomes(path: Path) -> None:
    """The crash took what was not waited for."""
    database = sqlite3.connect(path / "xenopsd.db")
    database.execute("DELETE FROM outcomes")
    database.commit()
    database.close()


def test_after_such_a_crash_the_id_is_still_no_other_requests(tmp_path: Path) -> None:
    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("vm-1"))
        await xenops.VM.add(plain_vm("vm-2"))
        await xenops.bus.call(xenops.queue, start("m-1"), timeout_s=10.0)

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        reply = await xenops.bus.call(xenops.queue, start("m-1", "vm-2"), timeout_s=10.0)
        with pytest.raises(BadRequest, match="another request"):
            wire.decode_result(reply.body, object)

    with_daemon(tmp_path, first)
    forget_outcomes(tmp_path)
    with_daemon(tmp_path, second)


def test_a_clock_that_jumps_forgets_no_outcome(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        add = request(methods(VM)["VM.add"], (plain_vm(),), {})
        first = (await xenops.bus.call(xenops.queue, add, timeout_s=10.0)).body
        await xenops.VM.remove("vm-1")
        now = time.time
        monkeypatch.setattr(
            time, "time", lambda: now() + 10 * 86400.0
        )  # as where a host learns the time after it started
        daemon.outcomes.expire()
        assert (await xenops.bus.call(xenops.queue, add, timeout_s=10.0)).body == first
        assert await xenops.VM.list() == [], "it was registered a second time"

    with_daemon(tmp_path, work)


def test_a_clock_that_is_set_back_turns_no_order_around(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    now = time.time

    async def add(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())

    async def only_accepted(daemon: Daemon, xenops: Xenops) -> None:
        daemon.workers.resize(0)
        asked.extend([await xenops.VM.start("vm-1"), await xenops.VM.shutdown("vm-1")])
        monkeypatch.setattr(time, "time", lambda: now() - 3600.0)

    async def done(daemon: Daemon, xenops: Xenops) -> None:
        assert [task.id for task in await xenops.Task.list()] == asked
        for task in asked:
            assert isinstance((await xenops.Task.wait(task, 10.0)).state, Completed)

    with_daemon(tmp_path, add)
    monkeypatch.setattr("xenopsd.main.Workers", lambda *args, **kinds: Workers(*args, **{**kinds, "size": 0}))
    with_daemon(tmp_path, only_accepted)
    with_daemon(tmp_path, only_accepted)
    monkeypatch.setattr("xenopsd.main.Workers", Workers)
    with_daemon(tmp_path, done)


@pytest.mark.parametrize("method", ["VM.remove", "VBD.remove", "VM.import_metadata"])
def test_nothing_that_has_waited_begins_after_its_deadline(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, machine = time.time, full_machine()
    metadata = msgspec.to_builtins(machine.metadata())
    asked = {"VM.remove": {"id": "vm-1"}, "VBD.remove": {"id": metadata["vbds"][0]["id"]}}
    asked["VM.import_metadata"] = {"metadata": metadata | {"vbds": []}}

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.import_metadata(metadata)
        daemon.workers.resize(0)
        body = msgspec.msgpack.encode({"method": method, "params": asked[method]})
        late = Message(body, headers={"deadline": int((now() + 60.0) * 1000)})
        asking = asyncio.create_task(xenops.bus.call(xenops.queue, late, timeout_s=10.0))
        while daemon.workers.depth()[0] == 0:  # noqa: ASYNC110 (nobody is told)
            await asyncio.sleep(0)
        monkeypatch.setattr(time, "time", lambda: now() + 3600.0)
        daemon.workers.resize(1)
        assert msgspec.msgpack.decode((await asking).body)["fault"]["name"] == "DeadlineExceeded"
        assert len(await xenops.VBD.list("vm-1")) == len(machine.of(Kind.VBD))

    with_daemon(tmp_path, work)


def test_a_deadline_outlives_a_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time

    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        daemon.workers.resize(0)
        message = start("m-1")
        message.headers["deadline"] = int((now() + 60.0) * 1000)
        await xenops.bus.call(xenops.queue, message, timeout_s=10.0)
        await xenops.VM.delay("vm-1", 0.0)
        monkeypatch.setattr(time, "time", lambda: now() + 3600.0)

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        late, other = [await xenops.Task.wait(task.id, 10.0) for task in await xenops.Task.list()]
        assert isinstance(late.state, Failed)
        assert late.state.fault.name == "DeadlineExceeded"
        assert isinstance(other.state, Completed)

    with_daemon(tmp_path, first)
    with_daemon(tmp_path, second)


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
