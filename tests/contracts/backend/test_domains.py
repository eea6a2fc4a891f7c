# SPDX-License-Identifier: Apache-2.0
"""What the port promises of domains."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from xenops.errors import (
    AlreadyExists,
    BadRequest,
    DoesNotExist,
    DomainNotBuilt,
    IoError,
    NotEnoughMemory,
    Unimplemented,
)
from xenops.types.disk import Local
from xenops.types.vm import MIB, PowerState
from xenopsd.backends.port import Backend, DomainAction, ShutdownReason

Tell = Callable[..., None]


def test_a_machine_without_a_domain_is_halted_and_is_to_be_discarded(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        state = await machine.state()
        assert state.power_state is PowerState.HALTED
        assert (state.domids, state.consoles, state.memory_actual) == ([], [], 0)
        assert await backend.vm.get_action(machine.vm) is DomainAction.DISCARD

    tell(kind, story, started=False)


def test_a_created_domain_is_empty_paused_and_to_be_discarded(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        free = (await backend.host.stat()).memory_free
        await backend.vm.create(machine.metadata)
        state = await machine.state()
        assert state.power_state is PowerState.PAUSED
        assert len(state.domids) == 1
        assert lab.same_memory((await backend.host.stat()).memory_free, free)
        assert await backend.vm.get_action(machine.vm) is DomainAction.DISCARD
        with pytest.raises(AlreadyExists):
            await backend.vm.create(machine.metadata)

    tell(kind, story, started=False)


def test_a_started_machine_runs_with_its_memory_vcpus_and_a_terminal(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        async def has_a_terminal() -> bool:
            paths = [Path(console.path) for console in (await machine.state()).consoles if console.path]
            return any(path.is_socket() or path.is_char_device() for path in paths)

        await lab.until(has_a_terminal)
        state = await machine.state()
        assert state.power_state is PowerState.RUNNING
        assert state.memory_actual >= 63 * MIB
        assert state.vcpu_target == 2
        assert state.hvm is (kind == "hvm")
        assert await backend.vm.get_action(machine.vm) is None
        assert await backend.vm.hook_arguments(machine.vm) == ["-vmdomid", str(state.domids[0])]

    tell(kind, story)


def test_pause_and_unpause_are_idempotent_and_seen(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        for _ in range(2):
            await backend.vm.pause(machine.vm)
            assert (await machine.state()).power_state is PowerState.PAUSED
        for _ in range(2):
            await backend.vm.unpause(machine.vm)
            assert (await machine.state()).power_state is PowerState.RUNNING

    tell(kind, story)


@pytest.mark.parametrize("call", ["pause", "unpause"])
def test_only_a_built_domain_can_be_scheduled(tell: Tell, kind: str, call: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        with pytest.raises(DoesNotExist):
            await getattr(backend.vm, call)(machine.vm)
        await backend.vm.create(machine.metadata)
        with pytest.raises(DomainNotBuilt):
            await getattr(backend.vm, call)(machine.vm)

    tell(kind, story, started=False)


def test_a_domain_takes_its_memory_and_gives_it_back(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        before = (await backend.host.stat()).memory_free
        await machine.start()
        assert before - (await backend.host.stat()).memory_free >= 256 * MIB - lab.slack
        await machine.stop()
        assert lab.same_memory((await backend.host.stat()).memory_free, before)

    tell(kind, story, started=False, memory_mib=256)


def test_a_machine_larger_than_the_host_does_not_start_and_leaves_nothing(tell: Tell, kind: str, lab: Any) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        free = (await backend.host.stat()).memory_free
        await backend.vm.create(machine.metadata)
        with pytest.raises(NotEnoughMemory) as caught:
            await backend.vm.build(machine.metadata, force=False)
        assert caught.value.needed > caught.value.free
        assert lab.same_memory(caught.value.free, free)
        assert lab.same_memory((await backend.host.stat()).memory_free, free)
        if lab.overcommits:
            await backend.vm.build(machine.metadata, force=True)

    tell(kind, story, started=False, memory_mib=1 << 20)


def test_every_undoing_call_is_idempotent_even_when_nothing_was_done(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        vm = machine.vm
        for _ in range(2):
            await backend.vm.destroy_device_model(vm)
            await backend.vm.destroy(vm)
            await backend.vm.forget(vm)
            for vbd in machine.metadata.vbds:
                await backend.vbd.unplug(vm, vbd, force=False)
                await backend.vbd.eject(vm, vbd)
                await backend.vbd.epoch_end(vm, vbd)
            for vif in machine.metadata.vifs:
                await backend.vif.unplug(vm, vif, force=False)

    tell(kind, story, started=False)


def test_domids_are_never_used_again(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        seen = (await machine.state()).domids
        for _ in range(3):
            await machine.stop()
            await machine.start()
            seen += (await machine.state()).domids
        assert seen == sorted(set(seen))

    tell(kind, story)


@pytest.mark.parametrize("reason", [ShutdownReason.POWEROFF, ShutdownReason.HALT, ShutdownReason.REBOOT])
def test_a_willing_guest_shuts_down_when_asked(tell: Tell, kind: str, reason: ShutdownReason) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        assert await backend.vm.request_shutdown(machine.vm, reason, timeout_s=20)
        assert await backend.vm.wait_shutdown(machine.vm, reason, timeout_s=20)
        wanted = DomainAction.REBOOT if reason is ShutdownReason.REBOOT else DomainAction.POWEROFF
        assert await backend.vm.get_action(machine.vm) is wanted

    tell(kind, story, answering=True)


def test_a_paused_guest_does_not_answer(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        await backend.vm.pause(machine.vm)
        assert not await backend.vm.request_shutdown(machine.vm, ShutdownReason.POWEROFF, timeout_s=0.05)
        assert not await backend.vm.wait_shutdown(machine.vm, ShutdownReason.POWEROFF, timeout_s=0.05)

    tell(kind, story)


def test_waiting_for_a_guest_can_be_cancelled(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        waiting = asyncio.create_task(backend.vm.wait_shutdown(machine.vm, ShutdownReason.POWEROFF, timeout_s=3600))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await machine.state()).power_state is PowerState.RUNNING

    tell(kind, story)


def test_actions_are_notes_that_stay(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        for action in (DomainAction.REBOOT, DomainAction.POWEROFF, None, None):
            await backend.vm.set_action(machine.vm, action)
            assert await backend.vm.get_action(machine.vm) is action

    tell(kind, story)


def test_to_be_discarded_outweighs_what_the_guest_wants(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        assert await backend.vm.request_shutdown(machine.vm, ShutdownReason.REBOOT, timeout_s=20)
        assert await backend.vm.wait_shutdown(machine.vm, ShutdownReason.REBOOT, timeout_s=20)
        await backend.vm.set_action(machine.vm, DomainAction.DISCARD)
        assert await backend.vm.get_action(machine.vm) is DomainAction.DISCARD
        await backend.vm.destroy(machine.vm)
        await backend.vm.set_action(machine.vm, DomainAction.DISCARD)

    tell(kind, story, answering=True)


def test_suspend_and_resume(tell: Tell, kind: str, tmp_path: Path) -> None:
    disk = Local(path=str(tmp_path / "memory"))

    async def story(backend: Backend, machine: Any) -> None:
        order: list[str] = []

        async def before_suspend() -> None:
            order.append((await machine.state()).power_state.value)

        progress: list[float] = []
        await backend.vm.save(machine.vm, disk, progress.append, before_suspend)
        assert order == ["Running"], "the guest is asked after the callback, once"
        assert progress == sorted(progress)
        assert (await machine.state()).power_state is PowerState.SUSPENDED
        await machine.stop()
        assert (await machine.state()).power_state is PowerState.SUSPENDED
        assert await backend.vm.get_internal_state(machine.vm) is not None
        await backend.vm.create(machine.metadata)
        await backend.vm.restore(machine.metadata, disk, progress.append)
        await machine.plug()
        await backend.vm.create_device_model(machine.metadata, restoring=True)
        await backend.vm.set_action(machine.vm, None)
        await backend.vm.unpause(machine.vm)
        assert (await machine.state()).power_state is PowerState.RUNNING
        await machine.stop()
        assert (await machine.state()).power_state is PowerState.HALTED

    tell(kind, story, answering=True)


def test_a_failed_resume_leaves_the_machine_suspended_and_its_image_whole(
    tell: Tell, kind: str, tmp_path: Path
) -> None:
    disk, garbage = Local(path=str(tmp_path / "memory")), Local(path=str(tmp_path / "garbage"))
    Path(garbage.path).write_bytes(b"not a memory image at all" * 1000)

    async def story(backend: Backend, machine: Any) -> None:
        await backend.vm.save(machine.vm, disk, lambda done: None, _nothing)
        await machine.stop()
        image = Path(disk.path).read_bytes()
        for source in (garbage, Local(path=str(tmp_path / "absent")), disk):
            await backend.vm.create(machine.metadata)
            if source is disk:
                await backend.vm.restore(machine.metadata, source, lambda done: None)  # and then something else fails
            else:
                with pytest.raises(IoError):
                    await backend.vm.restore(machine.metadata, source, lambda done: None)
            await backend.vm.destroy(machine.vm)
            assert (await machine.state()).power_state is PowerState.SUSPENDED
        assert Path(disk.path).read_bytes() == image

    tell(kind, story, answering=True)


def test_a_longer_old_image_does_not_shine_through(tell: Tell, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "memory"
    path.write_bytes(b"x" * (1 << 20))
    disk = Local(path=str(path))

    async def story(backend: Backend, machine: Any) -> None:
        for _ in range(2):
            await backend.vm.save(machine.vm, disk, lambda done: None, _nothing)
            await machine.stop()
            await backend.vm.create(machine.metadata)
            await backend.vm.restore(machine.metadata, disk, lambda done: None)
            await machine.plug()
            await backend.vm.create_device_model(machine.metadata, restoring=True)
            await backend.vm.set_action(machine.vm, None)
            await backend.vm.unpause(machine.vm)

    tell(kind, story, answering=True)


def test_a_save_that_cannot_be_written_leaves_the_guest_running(tell: Tell, kind: str, tmp_path: Path) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        with pytest.raises(IoError):
            await backend.vm.save(machine.vm, Local(path=str(tmp_path)), lambda done: None, _nothing)
        assert (await machine.state()).power_state is PowerState.RUNNING

    tell(kind, story)


def test_a_suspended_domain_can_wake_in_place(tell: Tell, kind: str, tmp_path: Path) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        await backend.vm.save(machine.vm, Local(path=str(tmp_path / "memory")), lambda done: None, _nothing)
        await backend.vm.resume(machine.vm)
        assert (await machine.state()).power_state is PowerState.RUNNING
        await machine.stop()
        assert (await machine.state()).power_state is PowerState.HALTED

    tell(kind, story, answering=True)


def test_internal_state_travels(tell: Tell, kind: str, tmp_path: Path) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        assert await backend.vm.get_internal_state(machine.vm) is None
        await backend.vm.save(machine.vm, Local(path=str(tmp_path / "memory")), lambda done: None, _nothing)
        await machine.stop()
        state = await backend.vm.get_internal_state(machine.vm)
        assert state is not None
        await backend.vm.forget(machine.vm)
        assert (await machine.state()).power_state is PowerState.HALTED
        await backend.vm.set_internal_state(machine.vm, state)
        assert (await machine.state()).power_state is PowerState.SUSPENDED
        with pytest.raises(BadRequest):
            await backend.vm.set_internal_state(machine.vm, {"nonsense": 1})

    tell(kind, story, answering=True)


def test_a_discarded_image_leaves_a_halted_machine(tell: Tell, kind: str, tmp_path: Path) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        await backend.vm.save(machine.vm, Local(path=str(tmp_path / "memory")), lambda done: None, _nothing)
        await machine.stop()
        for _ in range(2):
            await backend.vm.discard_image(machine.vm)
            assert (await machine.state()).power_state is PowerState.HALTED
        assert (tmp_path / "memory").exists()
        await machine.start()
        assert (await machine.state()).power_state is PowerState.RUNNING

    tell(kind, story, answering=True)


def test_settings_of_a_running_guest_are_seen(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        await backend.vm.set_vcpus(machine.vm, 1)
        await backend.vm.set_xsdata(machine.vm, {"vm-data/a": "1"})
        await backend.vm.set_memory_dynamic_range(machine.vm, 32 * MIB, 48 * MIB)
        state = await machine.state()
        assert state.vcpu_target == 1
        assert state.xsdata_state == {"vm-data/a": "1"}
        assert 32 * MIB <= state.memory_target <= 48 * MIB

    tell(kind, story)


def test_shadow_memory_is_for_those_that_have_it(tell: Tell, kind: str) -> None:
    async def story(backend: Backend, machine: Any) -> None:
        if kind == "pv":
            with pytest.raises(Unimplemented):
                await backend.vm.set_shadow_multiplier(machine.vm, 2.0)
            return
        await backend.vm.set_shadow_multiplier(machine.vm, 4.0)
        assert (await machine.state()).shadow_multiplier_target == 4.0
        with pytest.raises(NotEnoughMemory):
            await backend.vm.set_shadow_multiplier(machine.vm, 1e6)
        assert (await machine.state()).shadow_multiplier_target == 4.0

    tell(kind, story)


def test_states_answers_for_many_in_order(lab: Any) -> None:
    async def run() -> None:
        async with lab.open() as backend:
            machines = [lab.a_vm("pv") for _ in range(3)]
            await backend.vm.create(machines[1])
            states = await backend.vm.states([machine.vm for machine in machines])
            assert [bool(state.domids) for state in states] == [False, True, False]
            await backend.vm.destroy(machines[1].vm)

    asyncio.run(run())


def test_domains_outlive_the_daemon(lab: Any, kind: str) -> None:
    async def run() -> None:
        metadata = lab.a_vm(kind)
        async with lab.open() as backend:
            await _started(backend, metadata)
            before = await backend.vm.states([metadata.vm])
        async with lab.open() as backend:
            assert await backend.vm.states([metadata.vm]) == before
            assert (await backend.vbd.state(metadata.vm, metadata.vbds[0])).plugged
            assert await backend.vm.get_action(metadata.vm) is None
            await backend.vm.destroy(metadata.vm)
        async with lab.open() as backend:
            assert (await backend.vm.states([metadata.vm]))[0].power_state is PowerState.HALTED

    asyncio.run(run())


async def _started(backend: Backend, metadata: Any) -> None:
    await backend.vm.create(metadata)
    await backend.vm.build(metadata, force=False)
    await backend.vbd.plug(metadata.vm, metadata.vbds[0])
    await backend.vif.plug(metadata.vm, metadata.vifs[0])
    await backend.vm.create_device_model(metadata, restoring=False)
    await backend.vm.set_action(metadata.vm, None)
    await backend.vm.unpause(metadata.vm)


async def _nothing() -> None:
    return
