# SPDX-License-Identifier: Apache-2.0
"""A machine's life through the API: the original's simulator test cases, and more."""

import asyncio
import time
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import power_state, started, until, with_daemon
from tests.xenopsd.machines import full_machine, id_of, plain_vm
from xenops.client import Xenops
from xenops.errors import (
    BadPowerState,
    BadRequest,
    Busy,
    Cancelled,
    DeviceIsConnected,
    DoesNotExist,
    InvalidVcpus,
    MediaNotEjectable,
    MediaNotPresent,
)
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.network import Bridge
from xenops.types.record import UNSET
from xenops.types.task import Failed, Pending
from xenops.types.vif import Vif
from xenops.types.vm import Action, PowerState
from xenopsd.main import Daemon

FULL = full_machine().metadata()


async def imported(xenops: Xenops) -> str:
    return await xenops.VM.import_metadata(msgspec.to_builtins(FULL))


def test_add_says_whether_it_was_an_update(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        assert (await xenops.VM.add(plain_vm())).updated is False
        assert (await xenops.VM.add(plain_vm(name="other"))).updated is True
        assert [stat.vm.name for stat in await xenops.VM.list()] == ["other"]
        assert await xenops.VM.exists("vm-1")
        await xenops.VM.remove("vm-1")
        assert not await xenops.VM.exists("vm-1")
        with pytest.raises(DoesNotExist):
            await xenops.VM.stat("vm-1")

    with_daemon(tmp_path, work)


def test_start_ends_paused_unless_asked_otherwise(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm())
        await xenops.finished(await xenops.VM.start("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.PAUSED
        await xenops.finished(await xenops.VM.unpause("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.RUNNING
        await xenops.finished(await xenops.VM.unpause("vm-1"))
        await xenops.finished(await xenops.VM.pause("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.PAUSED
        await xenops.finished(await xenops.VM.shutdown("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.HALTED

    with_daemon(tmp_path, work)


def test_every_device_is_there_while_it_runs(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.finished(await xenops.VM.start(vm, paused=False))
        assert all(it.state.plugged and it.state.active for it in await xenops.VBD.list(vm))
        assert all(it.state.plugged and it.state.active for it in await xenops.VIF.list(vm))
        assert all(it.state.plugged for it in await xenops.PCI.list(vm))
        with pytest.raises(DeviceIsConnected):
            await xenops.VBD.remove(id_of(vm, "xvda"))
        with pytest.raises(BadPowerState):
            await xenops.VM.remove(vm)
        await xenops.finished(await xenops.VM.reboot(vm))
        assert await power_state(xenops, vm) is PowerState.RUNNING
        await xenops.finished(await xenops.VM.shutdown(vm, 10.0))
        assert not any(it.state.plugged or it.state.active for it in await xenops.VBD.list(vm))
        assert not any(it.state.plugged or it.state.active for it in await xenops.VIF.list(vm))

    with_daemon(tmp_path, work)


def test_hotplug_and_media(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        with pytest.raises(BadPowerState):
            await xenops.VBD.insert(id_of(vm, "xvdd"), Local(path="/iso"))
        await xenops.finished(await xenops.VM.start(vm, paused=False))
        await xenops.finished(await xenops.VBD.unplug(id_of(vm, "xvda")))
        assert not (await xenops.VBD.stat(id_of(vm, "xvda"))).state.plugged
        await xenops.finished(await xenops.VBD.plug(id_of(vm, "xvda")))
        with pytest.raises(MediaNotPresent):
            await xenops.finished(await xenops.VBD.eject(id_of(vm, "xvdd")))
        await xenops.finished(await xenops.VBD.insert(id_of(vm, "xvdd"), Local(path="/iso")))
        assert (await xenops.VBD.stat(id_of(vm, "xvdd"))).state.backend_present == Local(path="/iso")
        await xenops.finished(await xenops.VBD.eject(id_of(vm, "xvdd")))
        assert (await xenops.VBD.stat(id_of(vm, "xvdd"))).state.backend_present is UNSET
        with pytest.raises(MediaNotEjectable):
            await xenops.finished(await xenops.VBD.eject(id_of(vm, "xvda")))
        nic = await xenops.VIF.add(Vif(id=id_of(vm, "2"), position=2))
        await xenops.finished(await xenops.VIF.plug(nic))
        await xenops.finished(await xenops.VIF.move(nic, Bridge(bridge="xenbr1")))
        assert (await xenops.VIF.stat(nic)).vif.backend == Bridge(bridge="xenbr1")
        await xenops.finished(await xenops.VIF.unplug(nic))
        await xenops.VIF.remove(nic)

    with_daemon(tmp_path, work)


def test_suspend_resume_and_checkpoint(tmp_path: Path) -> None:
    image = Local(path=str(tmp_path / "image"))

    async def suspend(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.finished(await xenops.VM.start(vm, paused=False))
        await xenops.finished(await xenops.VM.checkpoint(vm, image))
        assert await power_state(xenops, vm) is PowerState.RUNNING
        await xenops.finished(await xenops.VM.suspend(vm, image))
        assert await power_state(xenops, vm) is PowerState.SUSPENDED
        with pytest.raises(BadPowerState):
            await xenops.VM.start(vm)

    async def resume(daemon: Daemon, xenops: Xenops) -> None:
        assert await power_state(xenops, "vm-1") is PowerState.SUSPENDED
        await xenops.finished(await xenops.VM.resume("vm-1", image, paused=False))
        assert await power_state(xenops, "vm-1") is PowerState.RUNNING

    with_daemon(tmp_path, suspend)
    with_daemon(tmp_path, resume)


def test_what_is_suspended_is_stopped_only_by_force(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        image = Local(path=str(tmp_path / "image"))
        await xenops.VM.add(plain_vm())
        await xenops.finished(await xenops.VM.start("vm-1", paused=False))
        await xenops.finished(await xenops.VM.suspend("vm-1", image))
        with pytest.raises(BadPowerState) as refused:
            await xenops.finished(await xenops.VM.shutdown("vm-1", 10.0))
        assert refused.value == BadPowerState("Suspended", "Running")
        assert await power_state(xenops, "vm-1") is PowerState.SUSPENDED
        await xenops.finished(await xenops.VM.shutdown("vm-1"))
        assert await power_state(xenops, "vm-1") is PowerState.HALTED
        assert Path(image.path).exists()
        await xenops.finished(await xenops.VM.start("vm-1"))

    with_daemon(tmp_path / "daemon", work)


def test_a_machine_that_cannot_be_is_not_registered(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        with pytest.raises(BadRequest) as refused:
            await xenops.VM.add(msgspec.structs.replace(plain_vm(), vcpus=3, vcpu_max=2))
        assert refused.value.path == "params.vm.vcpus"
        assert not await xenops.VM.exists("vm-1")

    with_daemon(tmp_path, work)


def test_settings_follow(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.finished(await xenops.VM.start(vm, paused=False))
        await xenops.finished(await xenops.VM.set_vcpus(vm, 3))
        assert (await xenops.VM.stat(vm)).state.vcpu_target == 3
        with pytest.raises(InvalidVcpus):
            await xenops.finished(await xenops.VM.set_vcpus(vm, 5))
        with pytest.raises(BadRequest):
            await xenops.finished(await xenops.VM.set_memory_dynamic_range(vm, 2, 1))
        await xenops.finished(await xenops.VM.set_xsdata(vm, {"vm-data/a": "b"}))
        assert (await xenops.VM.stat(vm)).state.xsdata_state == {"vm-data/a": "b"}

    with_daemon(tmp_path, work)


@pytest.mark.parametrize(
    ("trigger", "after"),
    [
        ("halt", PowerState.HALTED),
        ("reboot", PowerState.RUNNING),
        ("crash", PowerState.HALTED),
        ("die", PowerState.HALTED),
    ],
)
def test_what_the_guest_does_by_itself(tmp_path: Path, trigger: str, after: PowerState) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.finished(await xenops.VM.start(vm, paused=False))
        before = (await xenops.VM.stat(vm)).state.domids
        await xenops.DEBUG.trigger(trigger, [vm])

        async def settled() -> bool:
            state = (await xenops.VM.stat(vm)).state
            return state.power_state is after and state.domids != before and daemon.workers.is_idle(vm)

        await until(xenops, settled)
        if after is PowerState.HALTED:
            assert not any(it.state.active for it in await xenops.VBD.list(vm))

    with_daemon(tmp_path, work)


def test_a_crash_loop_is_damped(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        daemon.control.backend.vm.minimum_reboot_delay_s = 120.0
        await started(xenops, msgspec.structs.replace(plain_vm(), on_crash=[Action.START]))
        await xenops.DEBUG.trigger("crash", ["vm-1"])

        async def halted() -> bool:
            return await power_state(xenops, "vm-1") is PowerState.HALTED and daemon.workers.is_idle("vm-1")

        await until(xenops, halted)

    with_daemon(tmp_path, work)


def test_tasks_are_serial_by_machine_and_cancellable(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("a"))
        await xenops.VM.add(plain_vm("b"))
        blocking = await xenops.VM.delay("a", 3600.0)
        waiting = await xenops.VM.start("a")
        await xenops.finished(await xenops.VM.start("b"))
        assert isinstance((await xenops.Task.stat(waiting)).state, Pending)
        assert await power_state(xenops, "a") is PowerState.HALTED
        await xenops.Task.cancel(blocking)
        with pytest.raises(Cancelled):
            await xenops.finished(blocking)
        await xenops.finished(waiting)
        with pytest.raises(DoesNotExist):
            await xenops.Task.stat(waiting)

    with_daemon(tmp_path, work)


def test_a_waiting_task_is_cancelled_at_once(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await xenops.VM.add(plain_vm("a"))
        blocking = await xenops.VM.delay("a", 3600.0)
        waiting = await xenops.VM.start("a")
        await xenops.Task.cancel(waiting)
        state = (await xenops.Task.stat(waiting)).state
        assert isinstance(state, Failed)
        assert state.fault.name == "Cancelled"
        await xenops.Task.cancel(blocking)

    with_daemon(tmp_path, work)


def test_import_waits_for_its_turn_and_guards_plugged_devices(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        await xenops.finished(await xenops.VM.start(vm, paused=False))
        smaller = msgspec.to_builtins(msgspec.structs.replace(FULL, vbds=FULL.vbds[:1]))
        with pytest.raises(DeviceIsConnected):
            await xenops.VM.import_metadata(smaller)
        blocking = await xenops.VM.delay(vm, 3600.0)
        importing = asyncio.create_task(xenops.VM.import_metadata(msgspec.to_builtins(FULL)))
        await xenops.query()
        assert not importing.done()
        await xenops.Task.cancel(blocking)
        assert await importing == vm

    with_daemon(tmp_path, work)


def test_export_and_import_lose_nothing(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        vm = await imported(xenops)
        exported = await xenops.VM.export_metadata(vm)
        assert msgspec.structs.replace(exported, domains=UNSET) == FULL
        await xenops.VM.remove(vm)
        assert await xenops.VM.import_metadata(msgspec.json.encode(exported).decode()) == vm
        assert await xenops.VM.export_metadata(vm) == exported

    with_daemon(tmp_path, work)


def test_updates_follow_what_happens(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        token = await xenops.UPDATES.last_id()
        await xenops.VM.add(plain_vm())
        answer = await xenops.UPDATES.get(token, 5.0)
        assert [(u.kind, u.id, u.change.value) for u in answer.updates] == [(Kind.VM, "vm-1", "added")]
        await xenops.UPDATES.inject_barrier("vm-1", 5)
        answer = await xenops.UPDATES.get(answer.token, 5.0)
        assert [b.id for b in answer.barriers] == [5]
        await xenops.VM.remove("vm-1")
        answer = await xenops.UPDATES.get(answer.token, 5.0)
        assert [(u.id, u.change.value) for u in answer.updates] == [("vm-1", "removed")]
        assert (await xenops.UPDATES.get(answer.token, 0.0)).updates == []

    with_daemon(tmp_path, work)


def test_running_machines_are_adopted_and_begun_work_is_interrupted(tmp_path: Path) -> None:
    kept: dict[str, str] = {}

    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await started(xenops, plain_vm("runs"))
        await xenops.VM.add(plain_vm("waits"))
        kept["begun"] = await xenops.VM.delay("waits", 3600.0)
        kept["queued"] = await xenops.VM.start("waits")

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        assert await power_state(xenops, "runs") is PowerState.RUNNING
        begun = (await xenops.Task.stat(kept["begun"])).state
        assert isinstance(begun, Failed)
        assert begun.fault.name == "Interrupted"
        await xenops.finished(kept["queued"])
        assert await power_state(xenops, "waits") is PowerState.PAUSED

    with_daemon(tmp_path, first, stop_timeout=0.0)
    with_daemon(tmp_path, second)


def test_a_stop_does_not_wait_for_ever_for_the_way_back(tmp_path: Path) -> None:
    kept: dict[str, str] = {}

    async def first(daemon: Daemon, xenops: Xenops) -> None:
        await imported(xenops)
        await xenops.DEBUG.trigger("fail", ["vif.plug", "IoError"])
        await xenops.DEBUG.trigger("pause-call", ["vm.destroy"])  # with which the way back ends
        kept["task"] = await xenops.VM.start("vm-1")
        await daemon.control.backend.gate.arrival("vm.destroy")  # type: ignore[attr-defined]
        began = time.monotonic()
        await daemon.end()
        assert time.monotonic() - began < 3.0

    async def second(daemon: Daemon, xenops: Xenops) -> None:
        state = (await xenops.Task.stat(kept["task"])).state
        assert isinstance(state, Failed)
        assert state.fault.name == "Interrupted"
        await xenops.finished(await xenops.VM.delay("vm-1", 0.0))  # after the check, which comes first
        assert await power_state(xenops, "vm-1") is PowerState.HALTED
        assert [stat.state.active for stat in await xenops.VIF.list("vm-1")] == [False, False]

    with_daemon(tmp_path, first, stop_timeout=0.3)
    with_daemon(tmp_path, second)


def test_who_waits_for_a_machine_s_turn_keeps_nobody_else_out(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        for vm in ("vm-1", "vm-2"):
            await xenops.VM.add(plain_vm(vm))
        hour = await xenops.VM.delay("vm-1", 3600.0)
        removing = [asyncio.create_task(xenops.VM.remove("vm-1")) for _ in range(600)]
        assert (await xenops.VM.list())[1].vm.id == "vm-2"
        await xenops.Task.cancel(hour)
        ends = await asyncio.gather(*removing, return_exceptions=True)
        assert ends.count(None) == 1
        assert {type(end) for end in ends if end} == {DoesNotExist, Busy}

    with_daemon(tmp_path, work)


def test_a_crowd_that_is_removed_at_once(tmp_path: Path) -> None:
    async def work(daemon: Daemon, xenops: Xenops) -> None:
        await asyncio.gather(*(xenops.VM.add(plain_vm(f"vm-{n}")) for n in range(600)))
        await asyncio.gather(*(xenops.VM.remove(f"vm-{n}") for n in range(600)))
        assert await xenops.VM.list() == []

    with_daemon(tmp_path, work)
