# SPDX-License-Identifier: Apache-2.0
"""Guests act by themselves, and the simulator tells of it."""

import asyncio
import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import (
    BadRequest,
    DeviceDetachRejected,
    DeviceNotConnected,
    DoesNotExist,
    FailedToAcknowledgeSuspendRequest,
    FailedToSuspend,
    Unimplemented,
)
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.record import UNSET
from xenops.types.vbd import Vbd
from xenops.types.vif import Vif
from xenops.types.vm import DomainType, PowerState
from xenopsd.backends import port
from xenopsd.backends.port import DeviceAction, DomainAction, ShutdownReason
from xenopsd.backends.simulator.world.domain import CONSOLE_BYTES, Domain
from xenopsd.backends.simulator.world.guest import boot, type_in
from xenopsd.backends.simulator.world.tree import tree

ACTIONS = {
    "reboot": DomainAction.REBOOT,
    "halt": DomainAction.POWEROFF,
    "crash": DomainAction.CRASHDUMP,
    "suspend": DomainAction.SUSPEND,
    "kexec": DomainAction.SOFTRESET,
}


@pytest.mark.parametrize("command", sorted(ACTIONS))
def test_a_guest_that_stops_by_itself_is_told_of(play: Any, command: str) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.debug(command, [vm.id])
            assert it.told == [(Kind.VM, vm.id)]
            assert await it.backend.vm.get_action(vm) is ACTIONS[command]
        async with play() as it:
            assert it.told == [(Kind.VM, vm.id)], "what happened before a restart is told again after it"

    asyncio.run(run())


def test_a_domain_that_vanishes_gives_its_memory_back(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.debug("die", [vm.id])
            assert it.told == [(Kind.VM, vm.id)]
            assert (await it.state(vm)).power_state is PowerState.HALTED
            host = await it.backend.host.stat()
            assert host.memory_free == host.memory_total

    asyncio.run(run())


def test_a_guest_ejects_its_medium(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.debug("eject", [vm.id, "hdb"])
            drive = Vbd(id=DeviceId(vm=vm.id, dev="hdb"))
            state = await it.backend.vbd.state(vm, drive)
            assert (state.plugged, state.backend_present) == (True, UNSET)
            assert it.told == [(Kind.VBD, "vm.hdb")]
            with pytest.raises(DeviceNotConnected):
                await it.backend.debug("eject", [vm.id, "hdz"])

    asyncio.run(run())


def test_a_device_that_went_off_line_needs_to_be_unplugged(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.debug("offline", [vm.id, "vif", "0"])
            vif = Vif(id=DeviceId(vm=vm.id, dev="0"), mac="00:16:3e:00:00:02")
            assert it.told == [(Kind.VIF, "vm.0")]
            assert await it.backend.vif.get_action(vm, vif) is DeviceAction.UNPLUG

    asyncio.run(run())


@pytest.mark.parametrize(
    ("behaviour", "acknowledged", "stopped"),
    [
        (["cooperates"], True, True),
        (["acknowledges", "5"], True, True),
        (["ignores"], False, False),
        (["lingers"], True, False),
    ],
)
def test_behaviours(play: Any, behaviour: list[str], acknowledged: bool, stopped: bool) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.debug("guest", [vm.id, *behaviour])
            wait_s = 5.0 if acknowledged else 0.02
            asked = await it.backend.vm.request_shutdown(vm, ShutdownReason.POWEROFF, timeout_s=wait_s)
            assert asked is acknowledged
            wait_s = 5.0 if stopped else 0.02
            assert await it.backend.vm.wait_shutdown(vm, ShutdownReason.POWEROFF, timeout_s=wait_s) is stopped

    asyncio.run(run())


def test_a_guest_that_was_asked_goes_on_after_a_restart(play: Any) -> None:
    async def run() -> None:
        async with play(guest="acknowledges 50") as it:
            vm = await it.a_running_vm()
            assert not await it.backend.vm.request_shutdown(vm, ShutdownReason.REBOOT, timeout_s=0)
        async with play() as it:
            assert await it.backend.vm.wait_shutdown(vm, ShutdownReason.REBOOT, timeout_s=5)
            assert await it.backend.vm.get_action(vm) is DomainAction.REBOOT

    asyncio.run(run())


@pytest.mark.parametrize(
    ("behaviour", "fault"),
    [
        ("ignores", FailedToAcknowledgeSuspendRequest),
        ("acknowledges 9999", FailedToAcknowledgeSuspendRequest),
        ("lingers", FailedToSuspend),
    ],
)
def test_a_guest_that_does_not_suspend_runs_on(play: Any, tmp_path: Path, behaviour: str, fault: type) -> None:
    async def run() -> None:
        async def nothing() -> None:
            return

        async with play(guest=behaviour, suspend_timeout_s=0.02) as it:
            vm = await it.a_running_vm()
            with pytest.raises(fault):
                await it.backend.vm.save(vm, Local(path=str(tmp_path / "m")), lambda done: None, nothing)
            assert (await it.state(vm)).power_state is PowerState.RUNNING
            assert it.backend.world.domain(vm.id).asked is None, "nobody suspends later, when nobody would save"

    asyncio.run(run())


def test_a_clinging_guest_keeps_its_devices_until_they_are_taken(play: Any) -> None:
    async def run() -> None:
        async with play(guest="clings") as it:
            vm = await it.a_running_vm()
            vbd, vif = (
                Vbd(id=DeviceId(vm=vm.id, dev="hda")),
                Vif(id=DeviceId(vm=vm.id, dev="0"), mac="00:16:3e:00:00:02"),
            )
            with pytest.raises(DeviceDetachRejected):
                await it.backend.vbd.unplug(vm, vbd, force=False)
            with pytest.raises(DeviceDetachRejected):
                await it.backend.vif.unplug(vm, vif, force=False)
            await it.backend.vbd.unplug(vm, vbd, force=True)
            assert not (await it.backend.vbd.state(vm, vbd)).plugged

    asyncio.run(run())


def test_scripts_need_an_agent(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            assert await it.backend.vm.run_script(vm, "true") == {"rc": 0, "stdout": "", "stderr": ""}
            await it.backend.debug("guest", [vm.id, "agentless"])
            with pytest.raises(Unimplemented):
                await it.backend.vm.run_script(vm, "true")

    asyncio.run(run())


def test_the_tree_shows_what_a_guest_would_find(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.vm.set_xsdata(vm, {"vm-data/role": "test"})
            domain = it.backend.world.domain(vm.id)
            paths = tree(domain)
            home = f"/local/domain/{domain.domid}"
            assert paths[f"{home}/name"] == "vm"
            assert paths[f"{home}/memory/target"] == str(64 * 1024)
            assert paths[f"{home}/vm-data/role"] == "test"
            assert paths[f"{home}/device/vbd/768/virtual-device"] == "768"
            assert paths[f"/local/domain/0/backend/vbd/{domain.domid}/768/params"] == "/dev/loop0"
            assert paths[f"{home}/control/shutdown"] == ""
            await it.backend.debug("guest", [vm.id, "ignores"])
            await it.backend.vm.request_shutdown(vm, ShutdownReason.REBOOT, timeout_s=0)
            assert tree(domain)[f"{home}/control/shutdown"] == "reboot"

    asyncio.run(run())


def test_commands_that_mean_nothing_are_refused(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            for command, arguments, fault in (
                ("no-such-thing", [], Unimplemented),
                ("reboot", [], BadRequest),
                ("reboot", ["a", "b"], BadRequest),
                ("reboot", ["nobody"], DoesNotExist),
                ("fail", ["vm.nothing", "IoError"], BadRequest),
                ("fail", ["vm.create", "NoSuchFault"], BadRequest),
                ("fail", ["vm.create", "IoError", "-1"], BadRequest),
                ("latency", ["vm.create", "x"], BadRequest),
                ("latency", ["vm.create", "9-1"], BadRequest),
            ):
                with pytest.raises(fault):
                    await it.backend.debug(command, arguments)

    asyncio.run(run())


def test_the_order_of_plugging_can_be_checked(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.debug("check-vbd-plug-ordering", [vm.id])
            late = Vbd(id=DeviceId(vm=vm.id, dev="hdc"), position="hdc", backend=Local(path="/late"))
            await it.backend.vbd.plug(vm, late)
            with pytest.raises(BadRequest):
                await it.backend.debug("check-vbd-plug-ordering", [vm.id])

    asyncio.run(run())


def test_every_call_of_the_port_can_be_made_to_fail(play: Any) -> None:
    declared = {
        f"{noun}.{name}"
        for noun in ("host", "vm", "vbd", "vif", "pci", "vusb", "vgpu")
        for name, member in vars(getattr(port, f"{noun.capitalize()}Backend")).items()
        if inspect.iscoroutinefunction(member)
    }

    async def run() -> None:
        async with play() as it:
            assert it.backend.gate.calls == declared

    asyncio.run(run())


def a_domain() -> Domain:
    domain = Domain(domid=1, vm="vm", name="vm", kind=DomainType.PV, created_ms=0, built=True, paused=False)
    boot(domain)
    return domain


@given(st.binary(max_size=400), st.lists(st.integers(0, 400)))
def test_any_split_of_what_is_typed_is_the_same_conversation(keys: bytes, cuts: list[int]) -> None:
    whole, pieces = a_domain(), a_domain()
    shown = type_in(whole, keys)
    edges = sorted({0, len(keys), *(cut for cut in cuts if cut < len(keys))})
    assert b"".join(type_in(pieces, keys[a:b]) for a, b in itertools.pairwise(edges)) == shown
    assert pieces == whole
    assert len(whole.console) <= CONSOLE_BYTES
