# SPDX-License-Identifier: Apache-2.0
"""What is remembered of migrations outlives the process."""

import asyncio
from pathlib import Path

import pytest

from xenopsd.store.database import Database
from xenopsd.store.migrations import Crossing, Crossings, Phase


async def put(crossings: Crossings, *some: Crossing) -> None:
    for crossing in some:
        transaction = crossings.transaction()
        crossings.put(transaction, crossing)
        await transaction.commit()


def a_crossing(phase: Phase, id: str = "m", vm: str = "vm-1") -> Crossing:
    return Crossing(id=id, vm=vm, peer="xenops.there.simulator", phase=phase)


@pytest.mark.parametrize("phase", Phase, ids=lambda phase: phase.value)
def test_it_is_known_to_the_next_life(phase: Phase, tmp_path: Path) -> None:
    async def run() -> None:
        first = Database(tmp_path / "db")
        await put(Crossings(first), a_crossing(phase))
        first.close()
        second = Database(tmp_path / "db")
        again = Crossings(second)
        found = again.find("m")
        assert found is not None
        assert found.phase is phase
        assert again.given() == (["vm-1"] if phase is Phase.GIVEN else [])
        assert (again.left("vm-1") is not None) == (phase in (Phase.GIVEN, Phase.GONE))
        second.close()

    asyncio.run(run())


def test_one_that_came_back_has_not_left(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database(tmp_path / "db")
        crossings = Crossings(database)
        await put(crossings, a_crossing(Phase.GONE, "m1"), a_crossing(Phase.OWNED, "m2"))
        assert crossings.left("vm-1") is None
        await put(crossings, a_crossing(Phase.GIVEN, "m3"))
        assert crossings.given() == ["vm-1"]
        database.close()

    asyncio.run(run())


def test_only_what_is_over_is_forgotten(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database(tmp_path / "db")
        crossings = Crossings(database)
        await put(crossings, *(a_crossing(phase, phase.value, phase.value) for phase in Phase))
        assert crossings.over(older_than_s=10) == []
        over = crossings.over(older_than_s=-10)
        assert {crossing.phase for crossing in over} == {Phase.GONE, Phase.SETTLED}
        crossings.postpone(over[0])
        crossings.forget(over[1])
        await database.commit()
        assert {crossing.id for crossing in Crossings(database)} == {phase.value for phase in Phase} - {over[1].id}
        database.close()

    asyncio.run(run())


def test_a_record_that_cannot_be_read_is_left_alone(tmp_path: Path) -> None:
    async def run() -> None:
        database = Database(tmp_path / "db")
        await put(Crossings(database), a_crossing(Phase.GIVEN))
        database.write("INSERT INTO migrations VALUES ('broken', 0, x'c1')")
        await database.commit()
        assert [crossing.id for crossing in Crossings(database)] == ["m"]
        assert len(list(database.rows("SELECT id FROM migrations"))) == 2
        database.close()

    asyncio.run(run())
