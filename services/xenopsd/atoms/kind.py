# SPDX-License-Identifier: Apache-2.0
"""The table of device kinds: the only place that knows what they have in common.

Drives and interfaces are plugged before the device model starts, side by side; read-write drives before read-only
ones, since storage cannot turn a read-only attachment into a read-write one. PCI and USB devices come after it, one
by one: the device model numbers them as they come, and the order is the guest's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from xenops.events import Kind
from xenops.types.vbd import Mode, Vbd
from xenops.types.vgpu import Vgpu
from xenops.types.vif import Vif
from xenops.types.vm import Vm
from xenopsd.atoms import pci, vbd, vgpu, vif, vusb
from xenopsd.engine.plan import NOTHING, Plan, parallel, serial
from xenopsd.store.machine import Machine


@dataclass(frozen=True)
class DeviceKind:
    """How one device of a kind comes and goes; `unplug` takes the device and whether to force it."""

    kind: Kind
    plug: Callable[[Vm, Any], Plan]
    unplug: Callable[[Vm, Any, bool], Plan]
    after_device_model: bool = False


KINDS: dict[Kind, DeviceKind] = {
    Kind.VBD: DeviceKind(
        Kind.VBD,
        lambda vm, it: serial(vbd.SetActive(vm, it, True), vbd.Plug(vm, it)),
        lambda vm, it, force: serial(vbd.Unplug(vm, it, force), vbd.SetActive(vm, it, False)),
    ),
    Kind.VIF: DeviceKind(
        Kind.VIF,
        lambda vm, it: serial(vif.SetActive(vm, it, True), vif.Plug(vm, it)),
        lambda vm, it, force: serial(vif.Unplug(vm, it, force), vif.SetActive(vm, it, False)),
    ),
    Kind.PCI: DeviceKind(
        Kind.PCI, lambda vm, it: pci.Plug(vm, it), lambda vm, it, force: pci.Unplug(vm, it), after_device_model=True
    ),
    Kind.VUSB: DeviceKind(
        Kind.VUSB, lambda vm, it: vusb.Plug(vm, it), lambda vm, it, force: vusb.Unplug(vm, it), after_device_model=True
    ),
}


def plug_before_device_model(machine: Machine, *, restoring: bool = False) -> Plan:
    """Drives, interfaces and virtual GPUs, side by side."""
    vm = machine.vm
    drives: list[Vbd] = machine.of(Kind.VBD)
    interfaces: list[Vif] = sorted(machine.of(Kind.VIF), key=lambda it: it.position)
    vgpus: list[Vgpu] = machine.of(Kind.VGPU)
    start_gpus = vgpu.Start(vm, tuple(vgpus), restoring) if vgpus else NOTHING
    return parallel(
        serial(
            *(parallel(*(_plug_drive(vm, it, restoring) for it in drives if it.mode is mode)) for mode in _RW_FIRST)
        ),
        serial(*(KINDS[Kind.VIF].plug(vm, it) for it in interfaces)),
        serial(*(vgpu.SetActive(vm, it, True) for it in vgpus), start_gpus),
    )


def plug_after_device_model(machine: Machine) -> Plan:
    """PCI and USB devices, one by one by position."""
    pcis = sorted(machine.of(Kind.PCI), key=lambda it: it.position)
    return serial(
        *(KINDS[Kind.PCI].plug(machine.vm, it) for it in pcis),
        *(KINDS[Kind.VUSB].plug(machine.vm, it) for it in machine.of(Kind.VUSB)),
    )


def unplug_all(machine: Machine) -> Plan:
    """All devices, by force, side by side; they stay marked as meant to be plugged."""
    vm = machine.vm
    return parallel(
        *(vusb.Unplug(vm, it) for it in machine.of(Kind.VUSB)),
        *(vbd.Unplug(vm, it, True) for it in machine.of(Kind.VBD)),
        *(vif.Unplug(vm, it, True) for it in machine.of(Kind.VIF)),
        *(pci.Unplug(vm, it) for it in machine.of(Kind.PCI)),
    )


def deactivate_all(machine: Machine, *, life_goes_on: bool = False) -> Plan:
    """No device is meant to be plugged any more; unless its life goes on later, disks that forget may forget now."""
    vm = machine.vm
    return parallel(
        *(serial(*_end_epoch(vm, it, life_goes_on), vbd.SetActive(vm, it, False)) for it in machine.of(Kind.VBD)),
        *(vif.SetActive(vm, it, False) for it in machine.of(Kind.VIF)),
        *(vgpu.SetActive(vm, it, False) for it in machine.of(Kind.VGPU)),
    )


_RW_FIRST = (Mode.READ_WRITE, Mode.READ_ONLY)


def _plug_drive(vm: Vm, it: Vbd, restoring: bool) -> Plan:
    # A drive whose disk forgets is reset at the start of a life; a machine that is resumed goes on with its old one.
    fresh = () if restoring or it.persistent else (vbd.EpochBegin(vm, it),)
    return serial(vbd.SetActive(vm, it, True), *fresh, vbd.Plug(vm, it))


def _end_epoch(vm: Vm, it: Vbd, life_goes_on: bool) -> tuple[Plan, ...]:
    return () if it.persistent or life_goes_on else (vbd.EpochEnd(vm, it),)
