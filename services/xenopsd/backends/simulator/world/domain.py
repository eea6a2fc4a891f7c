# SPDX-License-Identifier: Apache-2.0
"""A simulated domain: what the hypervisor, the tool stack and the guest know of it, in one record that can be kept.

Pure data: nothing here reaches the host's accounting or a socket.
"""

from enum import Enum

import msgspec
from msgspec import UNSET, Struct, field
from msgspec.structs import replace

from xenops.types.disk import Disk
from xenops.types.pci import Pci
from xenops.types.record import Maybe
from xenops.types.vbd import Qos, Vbd
from xenops.types.vgpu import Vgpu
from xenops.types.vif import Vif
from xenops.types.vm import BuilderInfo, DomainType, Hvm, Pv, PvInPvh, Vm
from xenops.types.vusb import Vusb
from xenopsd.backends.port import DomainAction, ShutdownReason
from xenopsd.backends.simulator.world.ram import Ram

CONSOLE_BYTES = 4096  # what is remembered of a console


class ShutdownCode(Enum):
    """Why a domain stopped; Xen's own numbers."""

    POWEROFF = 0
    REBOOT = 1
    SUSPEND = 2
    CRASH = 3
    SOFT_RESET = 5


CODE_OF_REASON = {
    ShutdownReason.HALT: ShutdownCode.POWEROFF,
    ShutdownReason.POWEROFF: ShutdownCode.POWEROFF,
    ShutdownReason.REBOOT: ShutdownCode.REBOOT,
    ShutdownReason.SUSPEND: ShutdownCode.SUSPEND,
}
ACTION_OF_CODE = {
    ShutdownCode.POWEROFF: DomainAction.POWEROFF,
    ShutdownCode.REBOOT: DomainAction.REBOOT,
    ShutdownCode.SUSPEND: DomainAction.SUSPEND,
    ShutdownCode.CRASH: DomainAction.CRASHDUMP,
    ShutdownCode.SOFT_RESET: DomainAction.SOFTRESET,
}


class Behaviour(Struct, frozen=True, omit_defaults=True):
    """What a guest is like: whether and when it answers, whether it then stops, whether it lets devices go."""

    acknowledges_ms: float | None = 0.0  # None: it never answers
    stops: bool = True
    releases: bool = True
    agent: bool = True


class Drive(Struct, omit_defaults=True):
    """A plugged drive: what was registered, and what has become of it since."""

    vbd: Vbd
    devid: int
    medium: Maybe[Disk] = UNSET
    qos: Maybe[Qos] = UNSET
    offline: bool = False


class Nic(Struct, omit_defaults=True):
    """A plugged interface."""

    vif: Vif
    offline: bool = False


class PassedPci(Struct, omit_defaults=True):
    """A PCI function that the guest has."""

    pci: Pci
    offline: bool = False


class PassedUsb(Struct, omit_defaults=True):
    """A USB device that the guest has."""

    vusb: Vusb
    offline: bool = False


class Domain(Struct, kw_only=True, omit_defaults=True):
    """One domain. `vm` is its handle: the registered machine it belongs to, or "" when it is somebody else's."""

    domid: int
    vm: str
    name: str
    kind: DomainType
    created_ms: int
    vcpu_max: int = 1
    vcpus: int = 1
    static_max_kib: int = 0
    dynamic_min_kib: int = 0
    dynamic_max_kib: int = 0
    target_kib: int = 0
    held_kib: int = 0  # what it takes of the host's memory, overhead included
    shadow_multiplier: float = 1.0
    timeoffset: str = ""
    platform: dict[str, str] = field(default_factory=dict)
    built: bool = False
    paused: bool = True
    device_model: bool = False
    booted: bool = False
    asleep: bool = False
    action: DomainAction | None = DomainAction.DISCARD
    asked: ShutdownReason | None = None  # `control/shutdown`: what the guest has yet to acknowledge
    shutdown: ShutdownCode | None = None
    vbds: dict[str, Drive] = field(default_factory=dict)  # in the order in which they were plugged
    vifs: dict[str, Nic] = field(default_factory=dict)
    pcis: dict[str, PassedPci] = field(default_factory=dict)
    vusbs: dict[str, PassedUsb] = field(default_factory=dict)
    vgpus: dict[str, Vgpu] = field(default_factory=dict)
    xsdata: dict[str, str] = field(default_factory=dict)
    guest: dict[str, str] = field(default_factory=dict)  # what the guest wrote into xenstore
    behaviour: Behaviour = Behaviour()
    ram: Ram = field(default_factory=Ram)
    console: bytes = b""
    line: bytes = b""  # typed at the console and not entered yet

    @property
    def hvm(self) -> bool:
        """Whether it has a device model and drives with media."""
        return self.kind is DomainType.HVM

    @property
    def runs(self) -> bool:
        """Whether the guest can answer now."""
        return self.booted and not self.paused and self.shutdown is None

    @property
    def complete(self) -> bool:
        """Whether it could be scheduled."""
        return self.built and (not self.hvm or self.device_model)

    def show(self, text: str) -> bytes:
        """Print on the guest's console; the bytes are what a terminal gets."""
        shown = text.replace("\n", "\r\n").encode()
        self.console = (self.console + shown)[-CONSOLE_BYTES:]
        return shown


class Suspended(Struct, kw_only=True, frozen=True):
    """What is kept of a suspended machine, beside its image."""

    memory_bytes: int
    timeoffset: str = ""


class HostFacts(Struct, kw_only=True, omit_defaults=True):
    """What is kept of the host itself."""

    next_domid: int = 1
    quarantined: list[str] = field(default_factory=list)
    numa_policy: str = ""
    debug_keys: str = ""


def new_domain(vm: Vm, domid: int, now_ms: int, behaviour: Behaviour) -> Domain:
    """An empty, paused domain for that machine."""
    return Domain(
        domid=domid,
        vm=vm.id,
        name=vm.name,
        kind=kind_of(vm.ty),
        created_ms=now_ms,
        vcpu_max=vm.vcpu_max,
        vcpus=vm.vcpus,
        static_max_kib=vm.memory_static_max >> 10,
        dynamic_min_kib=vm.memory_dynamic_min >> 10,
        dynamic_max_kib=vm.memory_dynamic_max >> 10,
        shadow_multiplier=vm.ty.shadow_multiplier if isinstance(vm.ty, Hvm) else 1.0,
        timeoffset=vm.ty.timeoffset if isinstance(vm.ty, Hvm) else "",
        platform=vm.platformdata,
        xsdata=vm.xsdata,
        behaviour=behaviour,
    )


def hand_over(domain: Domain, to: Vm) -> None:
    """From now on it is that machine's, and so are its devices."""
    domain.vm, domain.name = to.id, to.name
    for drive in domain.vbds.values():
        drive.vbd = replace(drive.vbd, id=replace(drive.vbd.id, vm=to.id))
    for nic in domain.vifs.values():
        nic.vif = replace(nic.vif, id=replace(nic.vif.id, vm=to.id))
    for function in domain.pcis.values():
        function.pci = replace(function.pci, id=replace(function.pci.id, vm=to.id))
    for device in domain.vusbs.values():
        device.vusb = replace(device.vusb, id=replace(device.vusb.id, vm=to.id))
    domain.vgpus = {dev: replace(vgpu, id=replace(vgpu.id, vm=to.id)) for dev, vgpu in domain.vgpus.items()}


def kind_of(ty: BuilderInfo) -> DomainType:
    """The kind of domain that such a machine needs."""
    if isinstance(ty, Hvm):
        return DomainType.HVM
    if isinstance(ty, Pv):
        return DomainType.PV
    return DomainType.PV_IN_PVH if isinstance(ty, PvInPvh) else DomainType.PVH


ENCODER = msgspec.msgpack.Encoder()
