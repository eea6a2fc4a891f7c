# SPDX-License-Identifier: Apache-2.0
"""What a check must know of a machine, asked of the backend and of the migrations."""

import time
from collections.abc import Awaitable, Callable

from xenops.events import Kind
from xenopsd.backends.port import Backend, DeviceAction
from xenopsd.migration.station import Station
from xenopsd.operations.check import Facts
from xenopsd.store.machine import Machine, twin_of
from xenopsd.store.migrations import Crossing


async def look(machine: Machine, backend: Backend, migration: Station, *, loop_delay_s: float) -> Facts:
    """The machine as it is now."""
    state = (await backend.vm.states([machine.vm]))[0]
    live, doubled = bool(state.domids), migration.crossings.doubled(machine.id)
    return Facts(
        state=state,
        action=await backend.vm.get_action(machine.vm) if live else None,
        ran_s=max(0.0, time.time() - state.last_start_time / 1000),
        minimum_run_s=backend.vm.minimum_reboot_delay_s,
        loop_delay_s=loop_delay_s,
        device_actions=await _device_actions(machine, backend) if live else {},
        plugged=await _plugged(machine, backend) if live else {},
        given=migration.given(machine.id) is not None,
        doubled=doubled,
        twin=await _has_twin(doubled, backend),
        remains=not live and await backend.vm.remains(machine.vm),
    )


async def _has_twin(doubled: Crossing | None, backend: Backend) -> bool:
    if doubled is None or doubled.metadata is None:
        return False
    return bool((await backend.vm.states([twin_of(doubled.metadata).vm]))[0].domids)


async def _device_actions(machine: Machine, backend: Backend) -> dict[tuple[Kind, str], DeviceAction]:
    ask: dict[Kind, Callable[..., Awaitable[DeviceAction | None]]] = {
        Kind.VBD: backend.vbd.get_action,
        Kind.VIF: backend.vif.get_action,
        Kind.PCI: backend.pci.get_action,
        Kind.VUSB: backend.vusb.get_action,
    }
    found: dict[tuple[Kind, str], DeviceAction] = {}
    for kind, get_action in ask.items():
        for record in machine.of(kind):
            if (action := await get_action(machine.vm, record)) is not None:
                found[kind, record.id.dev] = action
    return found


async def _plugged(machine: Machine, backend: Backend) -> dict[tuple[Kind, str], bool]:
    vbd, vif, vm = backend.vbd, backend.vif, machine.vm
    drives = {(Kind.VBD, it.id.dev): (await vbd.state(vm, it)).plugged for it in machine.of(Kind.VBD)}
    return drives | {(Kind.VIF, it.id.dev): (await vif.state(vm, it)).plugged for it in machine.of(Kind.VIF)}
