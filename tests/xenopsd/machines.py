# SPDX-License-Identifier: Apache-2.0
"""Machines for tests: one with a device of every kind, and a plain one."""

from xenops.events import Kind
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.vbd import Mode, Vbd, VbdType
from xenops.types.vgpu import Empty, Vgpu
from xenops.types.vif import Vif
from xenops.types.vm import MIB, Direct, Hvm, Pv, Vm
from xenops.types.vusb import Vusb
from xenopsd.store.machine import Device, Machine


def id_of(vm: str, dev: str) -> DeviceId:
    return DeviceId(vm=vm, dev=dev)


def full_machine(id: str = "vm-1") -> Machine:
    """HVM, two disks (one of them read-only, one that forgets), a CD drive, two NICs, PCI, USB and a virtual GPU."""
    address = PciAddress(bus=3, dev=0, fn=0)
    memory = 256 * MIB
    vm = Vm(
        id=id,
        name="full",
        ty=Hvm(),
        memory_static_max=memory,
        memory_dynamic_max=memory,
        memory_dynamic_min=memory,
        vcpus=2,
        vcpu_max=4,
    )
    drives = [
        Vbd(id=id_of(id, "xvda"), position="xvda", backend=Local(path="/dev/a")),
        Vbd(id=id_of(id, "xvdb"), position="xvdb", backend=Local(path="/dev/b"), mode=Mode.READ_ONLY),
        Vbd(id=id_of(id, "xvdc"), position="xvdc", backend=Local(path="/dev/c"), persistent=False),
        Vbd(id=id_of(id, "xvdd"), position="xvdd", mode=Mode.READ_ONLY, ty=VbdType.CDROM),
    ]
    vgpu = Vgpu(id=id_of(id, "0"), physical_pci_address=address, implementation=Empty())
    return Machine(
        vm,
        1,
        {
            Kind.VBD: {it.id.dev: Device(it) for it in drives},
            Kind.VIF: {
                n: Device(Vif(id=id_of(id, n), position=int(n), mac="00:16:3e:00:00:0" + n)) for n in ("0", "1")
            },
            Kind.PCI: {"0": Device(Pci(id=id_of(id, "0"), address=address))},
            Kind.VUSB: {"0": Device(Vusb(id=id_of(id, "0"), hostbus="1", hostport="2"))},
            Kind.VGPU: {"0": Device(vgpu)},
        },
    )


def mobile_machine(id: str = "vm-1") -> Machine:
    """The same without what stays with its host."""
    machine = full_machine(id)
    del machine.devices[Kind.PCI], machine.devices[Kind.VUSB]
    return machine


def plain_vm(id: str = "vm-1", name: str = "plain", memory: int = 64 * MIB) -> Vm:
    """PV, no devices."""
    boot = Direct(kernel="/boot/vmlinuz")
    return Vm(
        id=id,
        name=name,
        ty=Pv(boot=boot),
        memory_static_max=memory,
        memory_dynamic_max=memory,
        memory_dynamic_min=memory,
    )
