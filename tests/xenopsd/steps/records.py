# SPDX-License-Identifier: Apache-2.0
"""Every request that changes what is registered, rather than a domain: what the suites of points read.

Such a request has no plan; its points are what it asks of the backend and of the store. Pure.
"""

from dataclasses import dataclass
from typing import Any

import msgspec

from tests.xenopsd.machines import full_machine, id_of, plain_vm
from tests.xenopsd.steps.samples import METHODS, asks, samples
from xenops.types.disk import Local
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.vbd import Vbd
from xenops.types.vgpu import Empty, Vgpu
from xenops.types.vif import Vif
from xenops.types.vusb import Vusb

ADDRESS = PciAddress(bus=4, dev=0, fn=0)
# What changes no record of a machine, and where it is tried.
NO_RECORDS = {
    *("DEBUG.trigger", "DEBUG.shutdown", "FORKEXEC.run", "CONSOLE.open"),
    *("HOST.send_debug_keys", "HOST.set_worker_pool_size", "HOST.set_numa_affinity_policy", "PCI.dequarantine"),
    *("UPDATES.inject_barrier", "UPDATES.remove_barrier", "UPDATES.refresh_vm"),
    *("Task.cancel", "Task.destroy", "Task.destroy_on_finish"),  # tests/xenopsd/store/test_crash_points.py
    *("VM.migrate", "VM.migrate_resolve", "Migration.offer", "Migration.abort"),  # tests/xenopsd/migration
}


@dataclass(frozen=True)
class Change:
    """A request that changes the records of the full machine `vm`, which is halted, or of `vm`-2, which is not there."""

    name: str
    method: str
    args: tuple[Any, ...]


def changes(vm: str) -> list[Change]:
    """At least one for each method."""
    other, less = f"{vm}-2", full_machine(vm).metadata()
    arrives = msgspec.to_builtins(full_machine(other).metadata())
    saved = {**arrives, "domains": {"memory_bytes": 1 << 20, "timeoffset": ""}}
    return [
        Change("add", "VM.add", (plain_vm(other),)),
        Change("add-again", "VM.add", (msgspec.structs.replace(full_machine(vm).vm, vcpus=1),)),
        Change("rename", "VM.rename", (vm, "new")),
        Change("remove", "VM.remove", (vm,)),
        Change("import", "VM.import_metadata", (arrives,)),
        Change("import-suspended", "VM.import_metadata", (saved,)),
        Change("import-again", "VM.import_metadata", (msgspec.to_builtins(msgspec.structs.replace(less, vbds=[])),)),
        Change("vbd-add", "VBD.add", (Vbd(id=id_of(vm, "new")),)),
        Change("vbd-remove", "VBD.remove", (id_of(vm, "xvda"),)),
        Change("vif-add", "VIF.add", (Vif(id=id_of(vm, "2"), position=2, mac="00:16:3e:00:00:09"),)),
        Change("vif-remove", "VIF.remove", (id_of(vm, "0"),)),
        Change("pci-add", "PCI.add", (Pci(id=id_of(vm, "1"), position=1, address=ADDRESS),)),
        Change("pci-remove", "PCI.remove", (id_of(vm, "0"),)),
        Change("vusb-add", "VUSB.add", (Vusb(id=id_of(vm, "1"), hostbus="1", hostport="3"),)),
        Change("vusb-remove", "VUSB.remove", (id_of(vm, "0"),)),
        Change(
            "vgpu-add", "VGPU.add", (Vgpu(id=id_of(vm, "1"), physical_pci_address=ADDRESS, implementation=Empty()),)
        ),
        Change("vgpu-remove", "VGPU.remove", (id_of(vm, "0"),)),
    ]


def without_change() -> list[str]:
    """The methods that change something, and that nobody walks."""
    operations = {asks(sample.operation)[0] for sample in samples("vm", Local(path="/"))}
    known = operations | {change.method for change in changes("vm")} | NO_RECORDS
    return sorted(method.wire for method in METHODS.values() if not method.reads and method.wire not in known)
