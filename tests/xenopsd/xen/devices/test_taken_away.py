# SPDX-License-Identifier: Apache-2.0
"""Another toolstack takes a domain of ours away: `xl destroy` pauses it first, and is left to its work."""

import asyncio

import pytest

from tests.xenopsd.xen.devices.stage import TOP, Stage
from tests.xenopsd.xen.devices.test_vbd import Play, disk, drives
from xenops.events import Kind
from xenopsd.backends.xen.devices import back_ends


def test_a_paused_domains_back_end_that_ends_is_told_of_later(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(back_ends, "_THEIRS_S", 1.0)

    async def story(stage: Stage, actors: object) -> None:
        vm, room = await stage.guest("taken", paused=True), drives(stage)
        domid, vbd = stage.domains.require(vm.id), disk(stage, vm)
        following = asyncio.create_task(room.follow())
        await stage.xs.read("/")
        await room.plug(vm, vbd)
        back = f"{TOP}/vbd/{domid}/51712"
        stage.domains.paused.clear()
        await stage.xs.write(f"{back}/kthread-pid", "1")
        async with asyncio.timeout(30):
            await stage.changed_again.wait()
        stage.domains.paused.add(domid)
        before = list(stage.changes)
        stage.changed_again.clear()
        begun = asyncio.get_running_loop().time()
        await stage.xs.write(f"{back}/state", "6")
        async with asyncio.timeout(30):
            await stage.changed_again.wait()
        assert asyncio.get_running_loop().time() - begun >= 1.0  # not before it could be over
        assert stage.changes == [*before, (Kind.VBD, f"{vm.id}.xvda")]
        await room.unplug(vm, vbd, force=True)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)

    play(story)
