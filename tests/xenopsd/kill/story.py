# SPDX-License-Identifier: Apache-2.0
"""One death and what must be true after it, on whatever backend.

The accepted task has its true end; the machine is registered; its domain is gone without a trace, or it is the one
of before with all its devices, or a new whole one; and it can be stopped, started and removed.
"""

import msgspec

from tests.xenopsd.kill.cases import HALTED, PAUSED, RUNNING, SUSPENDED, Case
from tests.xenopsd.kill.lab import Lab
from tests.xenopsd.kill.mortal import Death
from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.task import Completed, Failed
from xenops.types.vm import VmState
from xenopsd.store.machine import Machine


async def tell(lab: Lab, case: Case, machine: Machine, image: Local, death: Death) -> bool:
    """Whether xenopsd died there; it did, unless the death is at a change that the operation does not come to."""
    vm, empty = machine.id, await lab.look()
    await lab.xenops.VM.import_metadata(msgspec.to_builtins(machine.metadata()))
    await prepare(lab, case, machine, image)
    whole, state = await lab.look(), await stat(lab, vm)
    task = await lab.ask_and_die(case.method, case.args, death.words)
    if task is not None:
        await true_end(lab, task, completes=case.is_decided(machine, death))
        await lab.xenops.finished(await lab.xenops.VM.delay(vm, 0.0))  # behind the check
        await check(lab, case, machine, death, before=state, whole=whole, empty=empty)
    await usable(lab, case, machine, image)
    await lab.xenops.VM.remove(vm)
    assert not await lab.changes(empty), "something of it is left behind"
    return task is not None


async def prepare(lab: Lab, case: Case, machine: Machine, image: Local) -> None:
    """The machine as the operation wants it."""
    xenops = lab.xenops
    if case.before is not HALTED and not case.broken:
        await bring_up(lab, case, machine, image)
    for method, args in case.prepare:
        await xenops.finished(await lab.ask(method, args))


async def bring_up(lab: Lab, case: Case, machine: Machine, image: Local) -> None:
    """From Halted to the state before."""
    vm, xenops = machine.id, lab.xenops
    await xenops.finished(await xenops.VM.start(vm, paused=case.before is PAUSED))
    await lab.up(machine, answers=case.answers)
    if case.plugs and case.dev is not None:
        devices = xenops.VBD if case.kind is Kind.VBD else xenops.VIF
        await xenops.finished(await devices.unplug(DeviceId(vm=vm, dev=case.dev)))
    if case.before is SUSPENDED:
        await xenops.finished(await xenops.VM.suspend(vm, image))


async def true_end(lab: Lab, task: str, *, completes: bool) -> None:
    """It has one, it says why, and it stays."""
    found = await lab.ended(task)
    if completes:
        assert isinstance(found.state, Completed), found
    else:
        assert isinstance(found.state, Failed), found
        assert found.state.fault.name == "Interrupted", found
    await lab.xenops.Task.destroy(task)


async def check(
    lab: Lab,
    case: Case,
    machine: Machine,
    death: Death,
    *,
    before: VmState,
    whole: frozenset[str],
    empty: frozenset[str],
) -> None:
    """The machine is what the steps that were taken make of it, and the host holds nothing else."""
    state = await stat(lab, machine.id)
    exact = death.when != "change"
    if exact:
        assert state.power_state is case.after(machine, death), f"not {state.power_state}"
    live = state.power_state in (RUNNING, PAUSED)
    assert bool(state.domids) == live
    await devices_are_whole(lab, machine, live=live, but=case.dev)
    if not live:
        assert not await lab.changes(empty), "the domain is gone, but not all of it"
        return
    await lab.adopted(machine, state)
    if exact and case.same_domain(machine, death):
        assert state.domids == before.domids
        assert not await lab.changes(whole), "the domain is not what it was"


async def devices_are_whole(lab: Lab, machine: Machine, *, live: bool, but: str | None) -> None:
    """Drives and interfaces are there with the domain, and counted on exactly when they are there."""
    vbds, vifs = await lab.xenops.VBD.list(machine.id), await lab.xenops.VIF.list(machine.id)
    plugged = {it.vbd.id: it.state.plugged for it in vbds} | {it.vif.id: it.state.plugged for it in vifs}
    assert all(there == live for id, there in plugged.items() if id.dev != but), plugged
    assert {it.vbd.id: it.state.active for it in vbds} | {it.vif.id: it.state.active for it in vifs} == plugged


async def usable(lab: Lab, case: Case, machine: Machine, image: Local) -> None:
    """It can be resumed, plugged, stopped, started and stopped again."""
    vm, xenops = machine.id, lab.xenops
    state = await stat(lab, vm)
    if state.power_state is SUSPENDED:
        await xenops.finished(await xenops.VM.resume(vm, image))
        state = await stat(lab, vm)
    if case.dev is not None and case.kind in (Kind.VBD, Kind.VIF) and state.domids:
        devices, id = (xenops.VBD if case.kind is Kind.VBD else xenops.VIF), DeviceId(vm=vm, dev=case.dev)
        if not (await devices.stat(id)).state.plugged:
            await xenops.finished(await devices.plug(id))
        await xenops.finished(await devices.unplug(id))
        await xenops.finished(await devices.plug(id))
    await xenops.finished(await xenops.VM.shutdown(vm))
    assert (await stat(lab, vm)).power_state is HALTED
    task = await lab.ended(await xenops.VM.start(vm))
    assert isinstance(task.state, Completed), task
    await devices_are_whole(lab, machine, live=True, but=None)
    await xenops.finished(await xenops.VM.shutdown(vm))


async def stat(lab: Lab, vm: str) -> VmState:
    return (await lab.xenops.VM.stat(vm)).state
