# SPDX-License-Identifier: Apache-2.0
"""What happens while no daemon is there: guests die and stop, and the next life notices and says so."""

import asyncio
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import power_state, running
from tests.xenopsd.machines import full_machine, plain_vm
from xenops.events import Kind
from xenops.types.vm import PowerState
from xenopsd.backends.simulator import Simulator, SimulatorOptions


@pytest.mark.parametrize(("fate", "after"), [("die", "Halted"), ("halt", "Halted"), ("reboot", "Running")])
def test_a_guest_ends_while_we_are_away(fate: str, after: str, tmp_path: Path) -> None:
    async def run() -> None:
        async with running(tmp_path) as (_, xenops):
            await xenops.VM.import_metadata(msgspec.to_builtins(full_machine("vm-1").metadata()))
            await xenops.VM.add(plain_vm("vm-2"))
            for vm in ("vm-1", "vm-2"):
                await xenops.finished(await xenops.VM.start(vm, paused=False))
            before = (await xenops.VM.stat("vm-1")).state.domids
            token = await xenops.UPDATES.last_id()
        world = Simulator(tmp_path / "simulator", SimulatorOptions())
        await world.start(lambda kind, id: None)
        await world.debug(fate, ["vm-1"])
        await world.stop()
        async with running(tmp_path) as (_, xenops):
            news = await xenops.UPDATES.get(token, 5.0)
            assert news.resync, "a token of an earlier life says from where to go on: from what there is"
            assert {(Kind.VM, "vm-1"), (Kind.VM, "vm-2")} <= {(it.kind, it.id) for it in news.updates}
            await xenops.finished(await xenops.VM.delay("vm-1", 0.0))  # behind the check
            state = (await xenops.VM.stat("vm-1")).state
            assert state.power_state.value == after
            assert state.domids != before
            later = await xenops.UPDATES.get(news.token, 5.0)
            assert not later.resync
            assert (Kind.VM, "vm-1") in {(it.kind, it.id) for it in (*news.updates, *later.updates)}
            drives = [it.state for it in await xenops.VBD.list("vm-1")]
            assert {it.plugged for it in drives} == {it.active for it in drives} == {after == "Running"}
            assert await power_state(xenops, "vm-2") is PowerState.RUNNING

    async def bounded() -> None:
        async with asyncio.timeout(30):
            await run()

    asyncio.run(bounded())
