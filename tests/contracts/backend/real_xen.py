# SPDX-License-Identifier: Apache-2.0
"""The backend contract on the real hypervisor: in a control domain, as root, with guests that really boot.

A guest that needs only to exist is GRUB, up in a third of a second. One that has to answer is a small Linux, which
takes many seconds under emulation; as an HVM guest, which takes a minute, it is had only where drivers are needed, and
otherwise a boot sector that knows its power button.
"""

import asyncio
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import HealthCheck, Phase, settings
from prometheus_client import CollectorRegistry

from forkexecd.metrics import Metrics
from forkexecd.posix import Guard
from forkexecd.runner import Runner
from tests.contracts.backend.lab import Lab, Machine
from tests.xen import guests
from tests.xen.acceptance.console import attached
from tests.xen.acceptance.devices.test_pci import random_source
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.pci_address import PciAddress
from xenops.types.process import Program
from xenops.types.vm import MIB, BuilderInfo, Direct, Hvm, Pv, Pvh, SchedulerParams, SchedulerPriority
from xenopsd.backends.port import Backend, Surroundings
from xenopsd.backends.xen.backend import Options, create
from xenopsd.config import XenopsdSettings
from xenopsd.main import find_resources

LINUX = Direct(kernel=str(guests.LINUX_ELF), ramdisk=str(guests.LINUX_INITRAMFS), cmdline=guests.LINUX_CMDLINE)
OTHER_BRIDGE = "xenbr1"  # beside the rig's own
A_LITTLE = SchedulerPriority(cap=10)  # GRUB looks for keys without end, and would leave nothing to the tests
IDLE: dict[str, BuilderInfo] = {
    "hvm": Hvm(boot_order="c", video_mib=4),
    "pv": Pv(boot=Direct(kernel=str(guests.GRUB_PV))),
    "pvh": Pvh(boot=Direct(kernel=str(guests.GRUB_PVH))),
}
ANSWERING: dict[str, BuilderInfo] = {"pv": Pv(boot=LINUX), "pvh": Pvh(boot=LINUX)}
QUICK_TO_READ = {"hdtype": "ahci"}  # a disk of many megabytes, by the firmware


class XenLab(Lab):
    """The real hypervisor of this host."""

    slack = 2 * MIB  # Xen's own bookkeeping comes and goes in its own time
    overcommits = False
    pci_kind = "pv"  # no IOMMU
    crowd = (("hvm", 64), ("pv", 96), ("pvh", 48), ("pv", 1 << 20))
    accounting = settings(  # the same story every time: what fails can be told again
        max_examples=2,
        stateful_step_count=20,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Backend]:
        programs, _ = find_resources(XenopsdSettings(backend="xen"))
        guard = Guard()
        runner = Runner(guard, Metrics(CollectorRegistry()))
        backend = create(
            Surroundings(self.folder / "state", programs, runner.run),
            Options(helpers=1, run_dir=self.folder / "run", minimum_reboot_delay=0.0, pci_without_iommu=True),
        )
        await backend.start(self.note)
        bridge = Path("/sys/class/net", OTHER_BRIDGE)
        if not bridge.exists():
            await runner.run(Program(argv=["/usr/sbin/ip", "link", "add", OTHER_BRIDGE, "type", "bridge"]))
        try:
            yield backend
        finally:
            await runner.run(Program(argv=["/usr/sbin/ip", "link", "del", OTHER_BRIDGE]))
            await backend.stop()
            await runner.close()
            guard.close()

    def a_vm(
        self,
        kind: str,
        *,
        memory_mib: int = 64,
        disks: int = 1,
        nics: int = 1,
        answering: bool = False,
        drivers: bool = False,
    ) -> Metadata:
        machine = super().a_vm(kind, memory_mib=memory_mib, disks=disks, nics=nics)
        if not answering:
            return _renamed(machine, IDLE[kind], memory_mib, scheduler_params=SchedulerParams(priority=A_LITTLE))
        if kind != "hvm":
            return _renamed(machine, ANSWERING[kind], 160)
        disk = machine.vbds[0].backend
        assert isinstance(disk, Local)
        Path(disk.path).write_bytes((guests.HVM_LINUX_DISK if drivers else guests.HVM_DISK).read_bytes())
        if drivers:
            return _renamed(machine, IDLE[kind], guests.HVM_LINUX_MEMORY_MIB, platformdata=QUICK_TO_READ)
        return _renamed(machine, IDLE[kind], guests.HVM_MEMORY_MIB)

    def a_function(self) -> PciAddress:
        subprocess.run(["modprobe", "xen-pciback"], check=True, timeout=60)
        return random_source()

    async def awake(self, machine: Machine) -> None:
        [domid] = (await machine.state()).domids
        if isinstance(machine.vm.ty, Hvm) and not machine.vm.platformdata:
            await asyncio.to_thread(_hear, domid, guests.HVM_UP, "serial/0/tty")
        else:
            await asyncio.to_thread(_hear, domid, guests.LINUX_UP, "console/tty")


def _hear(domid: int, word: str, terminal: str) -> None:
    with attached(domid, terminal) as console:
        console.wait(word)


def _renamed(machine: Metadata, boot: BuilderInfo, memory_mib: int, **further: Any) -> Metadata:
    """Machines of two test runs have nothing in common either: xenstore outlives both."""
    name = str(uuid.uuid4())
    size = memory_mib * MIB
    vm = msgspec.structs.replace(
        machine.vm,
        id=name,
        ty=boot,
        memory_static_max=size,
        memory_dynamic_max=size,
        memory_dynamic_min=size,
        **further,
    )
    return Metadata(
        vm=vm,
        vbds=[msgspec.structs.replace(it, id=DeviceId(vm=name, dev=it.id.dev)) for it in machine.vbds],
        vifs=[msgspec.structs.replace(it, id=DeviceId(vm=name, dev=it.id.dev)) for it in machine.vifs],
    )
