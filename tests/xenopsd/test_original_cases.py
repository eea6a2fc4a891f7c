# SPDX-License-Identifier: Apache-2.0
"""What the original's simulator answered, call by call: results, faults, order and what may be done twice."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.xenopsd.daemon import power_state, started, with_daemon
from tests.xenopsd.machines import full_machine, id_of, plain_vm
from xenops.client import Xenops
from xenops.errors import (
    AlreadyExists,
    BadPowerState,
    BadRequest,
    Cancelled,
    DoesNotExist,
    Fault,
    InvalidVcpus,
    Unimplemented,
)
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.task import Completed, Failed, Pending
from xenops.types.vbd import Vbd
from xenops.types.vm import Hvm, PowerState, Vm
from xenopsd.main import Daemon

FULL = full_machine().metadata()
Call = Callable[[Xenops], Awaitable[Any]]


async def imported(xenops: Xenops, *, running: bool = False) -> str:
    vm = await xenops.VM.import_metadata(msgspec.to_builtins(FULL))
    if running:
        await xenops.finished(await xenops.VM.start(vm, paused=False))
    return vm


async def failure(xenops: Xenops, task: str) -> Fault:
    with pytest.raises(Fault) as failed:
        await xenops.finished(task)
    return failed.value


NOWHERE = id_of("vm-1", "no")
MISSING: list[tuple[str, Call]] = [
    ("VM", lambda x: x.VM.stat("no")),
    ("VM", lambda x: x.VM.remove("no")),
    ("VM", lambda x: x.VM.start("no")),
    ("VM", lambda x: x.VM.export_metadata("no")),
    ("VM", lambda x: x.VBD.list("no")),
    ("VM", lambda x: x.VBD.add(Vbd(id=id_of("no", "xvda")))),
    ("VM", lambda x: x.UPDATES.refresh_vm("no")),
    ("VM", lambda x: x.UPDATES.inject_barrier("no", 1)),
    ("VBD", lambda x: x.VBD.stat(NOWHERE)),
    ("VBD", lambda x: x.VBD.remove(NOWHERE)),
    ("VBD", lambda x: x.VBD.plug(NOWHERE)),
    ("VBD", lambda x: x.VBD.unplug(NOWHERE)),
    ("VIF", lambda x: x.VIF.stat(NOWHERE)),
    ("VIF", lambda x: x.VIF.remove(NOWHERE)),
    ("VIF", lambda x: x.VIF.plug(NOWHERE)),
    ("PCI", lambda x: x.PCI.stat(NOWHERE)),
    ("PCI", lambda x: x.PCI.remove(NOWHERE)),
    ("VUSB", lambda x: x.VUSB.stat(NOWHERE)),
    ("VGPU", lambda x: x.VGPU.remove(NOWHERE)),
    ("task", lambda x: x.Task.stat("no")),
    ("task", lambda x: x.Task.cancel("no")),
    ("task", lambda x: x.Task.destroy("no")),
    ("task", lambda x: x.Task.destroy_on_finish("no")),
    ("task", lambda x: x.Task.wait("no", 1.0)),
]


def test_what_is_not_there(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        for kind, call in MISSING:
            with pytest.raises(DoesNotExist) as failed:
                await call(xenops)
            assert failed.value.kind.lower() == kind.lower()
        assert not await xenops.VM.exists("no")

    with_daemon(tmp_path, work)


def test_add_list_remove(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        for id in ("b", "a", "c"):
            await xenops.VM.add(plain_vm(id))
        await xenops.VM.add(plain_vm("b", name="again"))
        assert [it.vm.id for it in await xenops.VM.list()] == ["b", "a", "c"]
        assert all(it.state.power_state is PowerState.HALTED for it in await xenops.VM.list())
        await xenops.VM.remove("a")
        assert [it.vm.id for it in await xenops.VM.list()] == ["b", "c"]
        vm = await imported(xenops)
        await xenops.VM.remove(vm)
        for listed in (xenops.VBD.list(vm), xenops.VIF.list(vm), xenops.PCI.list(vm)):
            with pytest.raises(DoesNotExist):
                await listed
        await xenops.VM.add(plain_vm(vm))
        assert await xenops.VBD.list(vm) == [], "devices of an earlier machine of that id are back"

    with_daemon(tmp_path, work)


def test_the_single_steps(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(Vm(id="vm-1", ty=Hvm()))
        for step in (xenops.VM.pause, xenops.VM.unpause, xenops.VM.build):
            assert await failure(xenops, await step("vm-1")) == DoesNotExist("domain", "vm-1")
        await xenops.finished(await xenops.VM.create("vm-1"))
        assert isinstance(await failure(xenops, await xenops.VM.create("vm-1")), AlreadyExists)
        await xenops.finished(await xenops.VM.destroy("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.HALTED
        await xenops.finished(await xenops.VM.create("vm-1"))
        await xenops.finished(await xenops.VM.build("vm-1"))
        await xenops.finished(await xenops.VM.create_device_model("vm-1"))
        await xenops.finished(await xenops.VM.unpause("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.RUNNING
        for _ in range(2):
            await xenops.finished(await xenops.VM.destroy("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.HALTED
        await xenops.finished(await xenops.VM.shutdown("vm-1"))
        await xenops.finished(await xenops.VM.shutdown("vm-1", 1.0))

    with_daemon(tmp_path, work)


def test_power_states_that_do_not_fit(tmp_path: Path) -> None:
    image = Local(path=str(tmp_path / "image"))

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        for call in (xenops.VM.reboot("vm-1"), xenops.VM.suspend("vm-1", image)):
            with pytest.raises(BadPowerState) as failed:
                await call
            assert failed.value == BadPowerState("Halted", "Running")
        await xenops.finished(await xenops.VM.start("vm-1"))
        for call in (xenops.VM.start("vm-1"), xenops.VM.resume("vm-1", image)):
            with pytest.raises(BadPowerState) as failed:
                await call
            assert failed.value.actual == "Paused"
        with pytest.raises(BadPowerState):
            await xenops.VM.remove("vm-1")
        await xenops.finished(await xenops.VM.reboot("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.RUNNING
        await xenops.finished(await xenops.VM.suspend("vm-1", image))
        await xenops.VM.remove("vm-1")
        await xenops.VM.add(plain_vm())
        assert await power_state(xenops, "vm-1") is PowerState.HALTED, "a removed machine is still suspended"
        await xenops.finished(await xenops.VM.resume("vm-1", image))
        assert await power_state(xenops, "vm-1") is PowerState.PAUSED

    with_daemon(tmp_path, work)


def test_many_side_by_side(tmp_path: Path) -> None:
    names = [f"vm-{n}" for n in range(20)]

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        async def live(id: str) -> None:
            await xenops.VM.add(plain_vm(id))
            asked = [
                await xenops.VM.start(id, paused=False),
                await xenops.VM.reboot(id),
                await xenops.VM.pause(id),
                await xenops.VM.unpause(id),
                await xenops.VM.shutdown(id),
            ]
            ended = [await xenops.Task.wait(task, 20.0) for task in asked]
            assert all(isinstance(it.state, Completed) for it in ended)
            await xenops.VM.remove(id)

        free = (await xenops.HOST.stat()).memory_free
        await asyncio.gather(*map(live, names))
        assert await xenops.VM.list() == []
        assert (await xenops.HOST.stat()).memory_free == free

    with_daemon(tmp_path, work)


def test_a_long_queue_of_one_starves_no_other(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.HOST.set_worker_pool_size(1)
        await xenops.VM.add(plain_vm("a"))
        await xenops.VM.add(plain_vm("b"))
        long = [await xenops.VM.delay("a", 0.02) for _ in range(20)]
        short = await xenops.VM.delay("b", 0.0)
        await xenops.finished(short)
        assert isinstance((await xenops.Task.stat(long[-1])).state, Pending)
        for task in long:
            await xenops.finished(task)

    with_daemon(tmp_path, work)


def test_settings(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops, running=True)
        for n in (0, -1, 5, 1 << 20):
            assert await failure(xenops, await xenops.VM.set_vcpus(vm, n)) == InvalidVcpus(4)
        for n in (1, 4):
            await xenops.finished(await xenops.VM.set_vcpus(vm, n))
            assert (await xenops.VM.stat(vm)).state.vcpu_target == n
        await xenops.finished(await xenops.VM.set_shadow_multiplier(vm, 2.0))
        assert (await xenops.VM.stat(vm)).state.shadow_multiplier_target == 2.0
        await started(xenops, plain_vm("pv"))
        assert isinstance(await failure(xenops, await xenops.VM.set_shadow_multiplier("pv", 2.0)), Unimplemented)
        await xenops.finished(await xenops.VM.set_memory_dynamic_range(vm, 64 << 20, 128 << 20))
        assert (await xenops.VM.stat(vm)).state.memory_target <= 128 << 20
        await xenops.finished(await xenops.VM.set_xsdata(vm, {"vm-data/a": "1", "vm-data/b": "2"}))
        await xenops.finished(await xenops.VM.set_xsdata(vm, {"vm-data/b": "3"}))
        assert (await xenops.VM.stat(vm)).state.xsdata_state == {"vm-data/b": "3"}

    with_daemon(tmp_path, work)


def test_tasks(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        done = await xenops.VM.delay("vm-1", 0.0)
        assert isinstance((await xenops.Task.wait(done, 5.0)).state, Completed)
        await xenops.Task.cancel(done)
        assert isinstance((await xenops.Task.stat(done)).state, Completed), "cancelling what has ended changes nothing"
        long = await xenops.VM.delay("vm-1", 3600.0)
        listed = await xenops.Task.list()
        assert [it.id for it in listed] == [done, long]
        assert listed[0].subtasks == [], "of what has ended, so many are kept that their steps would not fit"
        assert len((await xenops.Task.stat(done)).subtasks) == 1
        assert isinstance((await xenops.Task.wait(long, 0.01)).state, Pending)
        await xenops.Task.destroy_on_finish(done)
        with pytest.raises(DoesNotExist):
            await xenops.Task.stat(done)
        await xenops.Task.cancel(long)
        ended = await xenops.Task.wait(long, 5.0)
        assert isinstance(ended.state, Failed)
        assert ended.state.fault.name == "Cancelled"
        await xenops.Task.destroy(long)
        assert await xenops.Task.list() == []
        forgotten = await xenops.VM.start("vm-1", paused=False)
        await xenops.Task.destroy(forgotten)
        await xenops.finished(await xenops.VM.delay("vm-1", 0.0))
        assert await power_state(xenops, "vm-1") is PowerState.RUNNING, "a forgotten task goes on"

    with_daemon(tmp_path, work)


def test_a_cancel_trigger_strikes_once(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        marked = Xenops(xenops.bus, xenops.queue, debug_info="marked")
        await xenops.DEBUG.trigger("set-cancel-trigger", ["marked", "2"])
        await xenops.finished(await xenops.VM.delay("vm-1", 0.0))
        assert isinstance(await failure(xenops, await marked.VM.start("vm-1")), Cancelled)
        assert await power_state(xenops, "vm-1") is PowerState.HALTED
        await marked.finished(await marked.VM.start("vm-1"))
        for wrong in ([], ["marked"], ["marked", "x"], ["marked", "-1"]):
            with pytest.raises(BadRequest):
                await xenops.DEBUG.trigger("set-cancel-trigger", wrong)

    with_daemon(tmp_path, work)


def test_updates_and_barriers(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.VM.add(plain_vm("other"))
        everything = await xenops.UPDATES.get(None, 5.0)
        assert {"vm-1", "other"} <= {it.id for it in everything.updates if it.kind is Kind.VM}
        nothing = await xenops.UPDATES.get(everything.token, 0.01)
        assert (nothing.updates, nothing.barriers, nothing.token) == ([], [], everything.token)
        waiting = asyncio.create_task(xenops.UPDATES.get(everything.token, 20.0))
        await xenops.query()
        assert not waiting.done()
        await xenops.UPDATES.refresh_vm(vm)
        woken = await waiting
        seen = {(it.kind, it.id) for it in woken.updates} | {
            (it.kind, it.id) for it in (await xenops.UPDATES.get(woken.token, 0.05)).updates
        }
        assert {kind for kind, _ in seen} == {Kind.VM, Kind.VBD, Kind.VIF, Kind.PCI, Kind.VUSB, Kind.VGPU}
        token = await xenops.UPDATES.last_id()
        await xenops.UPDATES.refresh_vm("other")
        await xenops.UPDATES.refresh_vm(vm)
        await xenops.UPDATES.inject_barrier(vm, 9)
        await xenops.UPDATES.inject_barrier("other", 3)
        answer = await xenops.UPDATES.get(token, 5.0)
        assert [barrier.id for barrier in answer.barriers] == [9, 3], "in the order of their injection"
        first, second = answer.barriers
        assert {it.id.partition(".")[0] for it in first.updates} == {vm}
        assert [it.id for it in second.updates] == ["other"]
        await xenops.UPDATES.remove_barrier(9)
        assert [it.id for it in (await xenops.UPDATES.get(token, 5.0)).barriers] == [3]
        await xenops.UPDATES.remove_barrier(9)

    with_daemon(tmp_path, work)


def test_export_of_a_running_machine_and_import_of_garbage(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops, running=True)
        exported = await xenops.VM.export_metadata(vm)
        assert await xenops.VM.import_metadata(msgspec.json.encode(exported).decode()) == vm
        assert await power_state(xenops, vm) is PowerState.RUNNING
        assert all(it.state.plugged for it in await xenops.VBD.list(vm))
        ill: list[dict[str, Any] | str] = [
            "",
            "{",
            "[]",
            "null",
            {},
            {"vm": {"id": "a", "ty": [[None]]}},
            '{"vm":{"id":"a\\u0000"}}',
        ]
        for garbage in ill:
            with pytest.raises(BadRequest) as failed:
                await xenops.VM.import_metadata(garbage)
            assert failed.value.path.startswith("params.metadata")
        assert [it.vm.id for it in await xenops.VM.list()] == [vm]

    with_daemon(tmp_path, work)
