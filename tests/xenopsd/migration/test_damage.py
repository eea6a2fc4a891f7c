# SPDX-License-Identifier: Apache-2.0
"""One end dies, and the disk damages its record of the migration: still exactly one host ends with the machine.

What the record said is found out from the migration's id and from the world; nobody has to know of it.
"""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.migration.pair import Host, two
from tests.xenopsd.migration.test_misfortunes import VM, asked, in_order, started
from tests.xenopsd.migration.test_steps import MACHINE, Watch
from xenops.types.vm import PowerState
from xenopsd.operations.migrate import HERE

RUNNING, PAUSED = PowerState.RUNNING, PowerState.PAUSED


def damage(path: Path) -> None:
    with closing(sqlite3.connect(path / "xenopsd.db")) as store:
        changed = store.execute("UPDATE migrations SET body = CAST(x'00' || body AS BLOB)").rowcount
        store.commit()
    assert changed > 0, "there is no record to damage"


class Death(Watch):
    """Its end dies, and wakes with a damaged record."""

    async def die(self, cx: Any) -> None:
        await self._host.crash(damage)
        await asyncio.Event().wait()


async def all_is_mended(*hosts: Host) -> None:
    for host in hosts:
        assert not host.daemon.control.migration.crossings.damaged


# After which step its end dies; who has it then, and whether somebody must unpause it or decide.
PLACES = [
    ("here", "migration.GiveAway", "there", ""),
    ("here", "migration.Deliver", "there", ""),
    ("here", "vm.Destroy", "there", ""),
    ("here", "migration.Forget", "there", ""),
    ("there", "vm.Create", "here there", ""),  # its source may offer it afresh
    ("there", "migration.Prepare", "here", "decide"),
    ("there", "migration.TakeOver", "there", "unpause"),
    ("there", "vm.Unpause", "there", ""),
    ("there", "migration.Settle", "there", ""),
]


@pytest.mark.parametrize(("end", "step", "owner", "help"), PLACES, ids=[f"{end}-{step}" for end, step, *_ in PLACES])
def test_a_damaged_record(
    end: str, step: str, owner: str, help: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path) as hosts:
            here, there = hosts
            await started(here, MACHINE)
            watch = Death(hosts, end, step, monkeypatch)
            watch.after = watch.die
            asking = asyncio.create_task(asked(*hosts))
            await watch.met.wait()
            await asking
            if help == "unpause":
                await there.wait_for(VM, PAUSED)
                await there.xenops.finished(await there.xenops.VM.unpause(VM))
            elif help == "decide" and (await here.xenops.VM.stat(VM)).given_to is not msgspec.UNSET:
                await here.xenops.VM.migrate_resolve(VM, keep=True)
            assert (await in_order(*hosts, RUNNING)).name in owner.split()
            await all_is_mended(*hosts)

    asyncio.run(run())


# Within one xenopsd: after which step it dies, and whether the new domain is the machine then.
WITHIN = [
    ("relocation.Begin", False),
    ("relocation.Transfer", False),
    ("relocation.Decide", False),
    ("relocation.TakePlace", True),
    ("relocation.Settle", True),
]


@pytest.mark.parametrize(("step", "new"), WITHIN, ids=[step for step, _ in WITHIN])
def test_a_damaged_record_within_one_xenopsd(
    step: str, new: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def run() -> None:
        async with asyncio.timeout(50), two(tmp_path) as hosts:
            here, there = hosts
            await started(here, MACHINE)
            before = (await here.xenops.VM.stat(VM)).state.domids
            watch = Death(hosts, "here", step, monkeypatch)
            watch.after = watch.die
            await here.xenops.VM.migrate(VM, HERE)
            await watch.met.wait()
            if await here.wait_for(VM, RUNNING, PAUSED) is PAUSED:
                assert new
                await here.xenops.finished(await here.xenops.VM.unpause(VM))
            assert ((await here.xenops.VM.stat(VM)).state.domids != before) == new
            await all_is_mended(*hosts)
            assert (await in_order(here, there, RUNNING)) is here

    asyncio.run(run())
