# SPDX-License-Identifier: Apache-2.0
"""Every operation fails at every call of the backend, within its steps; afterwards the world is in order.

In order means: the machine is in a state that the operation may leave it in, its devices are plugged if and only if
it has a domain, no half-built domain and no memory is left behind, and the machine can be used again at once.
"""

import asyncio
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from tests.xenopsd.daemon import power_state, running
from tests.xenopsd.machines import full_machine
from xenops.client import Xenops
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.network import Bridge
from xenops.types.vm import PowerState
from xenopsd.main import Daemon
from xenopsd.operations import devices, settings
from xenopsd.operations.operation import Operation
from xenopsd.operations.reboot import Reboot
from xenopsd.operations.shutdown import Shutdown
from xenopsd.operations.start import Start
from xenopsd.operations.suspend import Checkpoint, Resume, Suspend

VM_ID = "vm-1"
HALTED, RUNNING, PAUSED, SUSPENDED = PowerState.HALTED, PowerState.RUNNING, PowerState.PAUSED, PowerState.SUSPENDED


@dataclass(frozen=True)
class Case:
    """An operation, the state it begins in, and the states it may leave behind when it does not come to its end."""

    name: str
    operation: Operation
    before: PowerState
    after: PowerState
    else_: tuple[PowerState, ...]


def cases(image: Local) -> list[Case]:
    iso = Local(path="/iso")
    return [
        Case("start", Start(vm=VM_ID), HALTED, PAUSED, (HALTED, PAUSED)),
        Case("start-running", Start(vm=VM_ID, paused=False), HALTED, RUNNING, (HALTED, PAUSED)),
        Case("shutdown", Shutdown(vm=VM_ID), RUNNING, HALTED, (RUNNING, PAUSED, HALTED)),
        Case("shutdown-clean", Shutdown(vm=VM_ID, delay=5.0), RUNNING, HALTED, (RUNNING, PAUSED, HALTED)),
        Case("reboot", Reboot(vm=VM_ID), RUNNING, RUNNING, (RUNNING, PAUSED, HALTED)),
        Case("reboot-clean", Reboot(vm=VM_ID, delay=5.0), RUNNING, RUNNING, (RUNNING, PAUSED, HALTED)),
        Case("suspend", Suspend(vm=VM_ID, disk=image), RUNNING, SUSPENDED, (RUNNING, PAUSED, SUSPENDED)),
        Case("checkpoint", Checkpoint(vm=VM_ID, disk=image), RUNNING, RUNNING, (RUNNING, SUSPENDED, HALTED)),
        Case("resume", Resume(vm=VM_ID, disk=image), SUSPENDED, PAUSED, (SUSPENDED, PAUSED)),
        Case("vbd-unplug", devices.Unplug(vm=VM_ID, kind=Kind.VBD, dev="xvda"), RUNNING, RUNNING, (RUNNING,)),
        Case("vif-unplug", devices.Unplug(vm=VM_ID, kind=Kind.VIF, dev="0"), RUNNING, RUNNING, (RUNNING,)),
        Case("insert", devices.Insert(vm=VM_ID, dev="xvdd", disk=iso), RUNNING, RUNNING, (RUNNING,)),
        Case("move", settings.Move(vm=VM_ID, dev="0", network=Bridge(bridge="other")), RUNNING, RUNNING, (RUNNING,)),
        Case("vcpus", settings.SetVcpus(vm=VM_ID, n=1), RUNNING, RUNNING, (RUNNING,)),
    ]


NAMES = [case.name for case in cases(Local(path="/"))]


def a_case(name: str, path: Path) -> Case:
    return next(case for case in cases(Local(path=str(path / "image"))) if case.name == name)


async def prepare(xenops: Xenops, case: Case, path: Path) -> None:
    await xenops.VM.import_metadata(msgspec.to_builtins(full_machine().metadata()))
    if case.before is not HALTED:
        await xenops.finished(await xenops.VM.start(VM_ID, paused=False))
    if case.before is SUSPENDED:
        await xenops.finished(await xenops.VM.suspend(VM_ID, Local(path=str(path / "image"))))


async def assert_in_order(daemon: Daemon, xenops: Xenops, case: Case, allowed: tuple[PowerState, ...]) -> None:
    """The state is allowed, devices go with the domain, and the machine can be stopped and started at once."""
    state = await power_state(xenops, VM_ID)
    assert state in allowed
    live = state in (RUNNING, PAUSED)
    plugged = {it.vbd.id.dev: it.state.plugged for it in await xenops.VBD.list(VM_ID)}
    touched = getattr(case.operation, "dev", None)
    assert all(there == live for dev, there in plugged.items() if dev != touched), plugged
    active = {it.vbd.id.dev: it.state.active for it in await xenops.VBD.list(VM_ID)}
    assert active == plugged
    if state is SUSPENDED:
        await xenops.finished(await xenops.VM.resume(VM_ID, case_image(case)))
    await xenops.finished(await xenops.VM.shutdown(VM_ID))
    await xenops.finished(await xenops.VM.start(VM_ID))
    await xenops.finished(await xenops.VM.shutdown(VM_ID))
    host = await xenops.HOST.stat()
    assert host.memory_free == host.memory_total, "memory is left behind"
    await xenops.VM.remove(VM_ID)


def case_image(case: Case) -> Local:
    disk = getattr(case.operation, "disk", None)
    assert isinstance(disk, Local)
    return disk


@pytest.mark.parametrize("name", NAMES)
def test_failing_at_every_call(name: str, tmp_path: Path) -> None:
    async def run() -> int:
        case = a_case(name, tmp_path)
        failures = 0
        async with running(tmp_path / "calls") as (daemon, _):
            calls = sorted(daemon.control.backend.gate.calls)  # type: ignore[attr-defined]
        calls = [
            call for call in calls if call.split(".")[1] not in ("state", "states", "power_state", "get_action", "stat")
        ]
        for call in calls:
            async with asyncio.timeout(20), running(tmp_path / call) as (daemon, xenops):
                await prepare(xenops, case, tmp_path)
                await xenops.DEBUG.trigger("fail", [call, "IoError", "1"])
                task = daemon.tasks.find(await daemon.control.begin(case.operation))
                await task.wait(10.0)
                done = type(task.state).__name__ == "Completed"
                failures += not done
                await xenops.DEBUG.trigger("fail", [call, "IoError", "0"])
                await assert_in_order(daemon, xenops, case, (case.after,) if done else (*case.else_, case.before))
        return failures

    assert asyncio.run(run()) > 0, "no call of the backend was ever made"
