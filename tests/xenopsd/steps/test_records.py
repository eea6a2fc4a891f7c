# SPDX-License-Identifier: Apache-2.0
"""At every point of a request that changes records it fails, hangs, or loses its caller: it is done as a whole, or not at all.

A point is a call of the backend or a write into the store. Afterwards the request, asked again, has its one answer;
events tell of what is so, and the machines can be changed, started and stopped.
"""

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.machines import full_machine, plain_vm
from tests.xenopsd.steps.records import Change, changes, without_change
from tests.xenopsd.steps.samples import HALTED, METHODS, SUSPENDED
from tests.xenopsd.steps.test_ordeals import Lab, a_lab
from xenops.errors import Fault, IoError
from xenops.rpc import calling, request
from xenops.types.metadata import Metadata
from xenops.wire import decode_result
from xenopsd.backends.simulator.injection import Gate
from xenopsd.engine import turns
from xenopsd.store.database import Database

VM, WORDS = "vm-1", "a change at its points"
HARMS = ("fail", "hang", "leave")
_enter, _write = Gate.enter, Database.write_or_refuse


class Point:
    """The n-th point that a request comes to, and what happens there."""

    def __init__(self, nth: int, harm: str, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nth, self.harm, self.seen, self.stored = nth, harm, 0, False
        self.there, self.go_on = asyncio.Event(), asyncio.Event()

        async def enter(gate: Gate, call: str) -> None:
            await self._meet(stored=False)
            await _enter(gate, call)

        async def write(database: Database, *statements: Any, **then: Any) -> None:
            await self._meet(stored=True)
            await _write(database, *statements, **then)

        monkeypatch.setattr(Gate, "enter", enter)
        monkeypatch.setattr(Database, "write_or_refuse", write)

    async def _meet(self, *, stored: bool) -> None:
        if calling.get().debug_info != WORDS:
            return
        self.seen += 1
        if self.seen != self.nth:
            return
        self.stored = stored
        self.there.set()
        if self.harm == "fail":
            raise IoError("the point", "fails")
        if self.harm == "hang" and not stored:
            await asyncio.Event().wait()
        if self.harm == "leave":
            await self.go_on.wait()


def test_no_method_that_changes_something_is_left_out() -> None:
    assert without_change() == [], "add it to tests/xenopsd/steps/records.py"


@pytest.mark.parametrize("harm", HARMS)
@pytest.mark.parametrize("change", changes(VM), ids=lambda change: change.name)
def test_at_every_point(change: Change, harm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "LIMIT_S", 0.05 if harm == "hang" else 30.0)

    async def run() -> None:
        async with asyncio.timeout(50), a_lab(tmp_path) as lab:
            nth = 1
            while await suffer(lab, change, Point(nth, harm, monkeypatch)):
                nth += 1
            assert nth > 1, "it has no point at all"

    asyncio.run(run())


async def suffer(lab: Lab, change: Change, point: Point) -> bool:
    """Whether the request came to that point; what must be true afterwards is."""
    xenops = lab.xenops
    await xenops.VM.import_metadata(msgspec.to_builtins(full_machine(VM).metadata()))
    before, token = await world(lab), await xenops.UPDATES.last_id()
    message = request(METHODS[change.method], change.args, {}, debug_info=WORDS)
    asking = asyncio.create_task(xenops.bus.call(xenops.queue, message, timeout_s=20.0))
    meeting = asyncio.create_task(point.there.wait())
    await asyncio.wait((asking, meeting), return_when=asyncio.FIRST_COMPLETED)
    met = point.there.is_set()
    meeting.cancel()
    if met and point.harm == "leave":
        asking.cancel()  # who asked has gone, and asks again in another life
        await asyncio.gather(asking, return_exceptions=True)
        point.go_on.set()
        asking = asyncio.create_task(xenops.bus.call(xenops.queue, message, timeout_s=20.0))
    fault = fault_of((await asking).body, change)
    harmed = met and point.harm != "leave" and not (point.harm == "hang" and point.stored)
    assert fault == ({"fail": "IoError", "hang": "StepTimedOut"}[point.harm] if harmed else "")
    after = await world(lab)
    assert (after == before) if harmed else (after != before or change.name == "rename")
    again = (await xenops.bus.call(xenops.queue, message, timeout_s=20.0)).body
    assert fault_of(again, change) == fault, "it has one answer"
    assert await world(lab) == after
    if not harmed:
        assert VM in {it.id.partition(".")[0].removesuffix("-2") for it in (await xenops.UPDATES.get(token)).updates}
    if f"{VM}-2" not in after:
        await xenops.VM.add(plain_vm(f"{VM}-2"))
        assert await lab.state(f"{VM}-2") is HALTED, "what did not arrive has left something"
        await xenops.VM.remove(f"{VM}-2")
    for metadata in after.values():
        if await lab.state(metadata.vm.id) is not SUSPENDED:
            await xenops.finished(await xenops.VM.start(metadata.vm.id))
        await xenops.finished(await xenops.VM.shutdown(metadata.vm.id))
        await xenops.VM.remove(metadata.vm.id)
    return met


async def world(lab: Lab) -> dict[str, Metadata]:
    """All that is registered."""
    ids = [stat.vm.id for stat in await lab.xenops.VM.list()]
    return {id: await lab.xenops.VM.export_metadata(id) for id in ids}


def fault_of(untrusted: bytes, change: Change) -> str:
    """With what it was answered; empty when with a result."""
    try:
        decode_result(untrusted, METHODS[change.method].result)
    except Fault as fault:
        return fault.name
    return ""
