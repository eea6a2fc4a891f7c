# SPDX-License-Identifier: Apache-2.0
"""A virtual machine: what it should be (`Vm`) and what it is (`VmState`).

Sizes are bytes, times are Unix milliseconds, enums travel as strings and unions as maps with a `type` tag.
"""

from enum import Enum
from typing import Annotated

from msgspec import Meta, field

from xenops.types.console import Console
from xenops.types.disk import Disk
from xenops.types.ids import VmId
from xenops.types.record import UNSET, Maybe, Record

MIB = 1 << 20

# 52 bits are what an x86 processor can address; an int without an end would not fit into every reply made of it.
Bytes = Annotated[int, Meta(ge=0, le=1 << 52, description="bytes")]
ShadowMultiplier = Annotated[float, Meta(gt=0, le=1024)]


class PowerState(Enum):
    """Where a machine is in its life; a reboot counts as Running from beginning to end."""

    RUNNING = "Running"
    HALTED = "Halted"
    SUSPENDED = "Suspended"
    PAUSED = "Paused"


class Action(Enum):
    """What to do when the guest shuts down, reboots or crashes by itself."""

    COREDUMP = "Coredump"
    SHUTDOWN = "Shutdown"
    START = "Start"
    PAUSE = "Pause"
    SOFTREBOOT = "Softreboot"


class Video(Enum):
    """The graphics card that the device model shows to an HVM guest."""

    CIRRUS = "Cirrus"
    STANDARD_VGA = "Standard_VGA"
    VGPU = "Vgpu"
    IGD_PASSTHROUGH = "IGD_passthrough"


class UefiOnBoot(Enum):
    """What becomes of UEFI variables at boot."""

    PERSIST = "Persist"
    RESET = "Reset"


class Bios(Record, frozen=True, kw_only=True, tag="Bios", tag_field="type"):
    """Legacy firmware (SeaBIOS)."""


class Uefi(Record, frozen=True, kw_only=True, tag="Uefi", tag_field="type"):
    """UEFI firmware and where its variables are kept."""

    on_boot: UefiOnBoot = UefiOnBoot.PERSIST
    backend: str = "xapidb"


Firmware = Bios | Uefi


class Direct(Record, frozen=True, kw_only=True, tag="Direct", tag_field="type"):
    """Boot this kernel; the paths are read in the control domain."""

    kernel: str = ""
    cmdline: str = ""
    ramdisk: Maybe[str] = UNSET


class Indirect(Record, frozen=True, kw_only=True, tag="Indirect", tag_field="type"):
    """Let a boot loader (pygrub) find the kernel on the guest's disk."""

    bootloader: str = ""
    extra_args: str = ""
    legacy_args: str = ""
    bootloader_args: str = ""
    devices: list[Disk] = field(default_factory=list)


Boot = Direct | Indirect


class Hvm(Record, frozen=True, kw_only=True, tag="HVM", tag_field="type"):
    """A fully virtualised guest: hvmloader and a device model."""

    hap: bool = True
    shadow_multiplier: ShadowMultiplier = 1.0
    timeoffset: str = ""
    video_mib: Annotated[int, Meta(ge=0, le=4096)] = 4
    video: Video = Video.CIRRUS
    acpi: bool = True
    serial: Maybe[str] = UNSET
    keymap: Maybe[str] = UNSET
    vnc_ip: Maybe[str] = UNSET
    pci_emulations: list[str] = field(default_factory=list)
    pci_passthrough: bool = False
    boot_order: str = ""
    qemu_disk_cmdline: bool = False
    qemu_stubdom: bool = False
    firmware: Firmware = field(default_factory=Bios)
    tpm: Maybe[str] = UNSET


class _Paravirtual(Record, frozen=True, kw_only=True):
    boot: Boot
    framebuffer: bool = True
    framebuffer_ip: Maybe[str] = UNSET
    vncterm: bool = True
    vncterm_ip: Maybe[str] = UNSET
    pci_passthrough: bool = False


class Pv(_Paravirtual, frozen=True, kw_only=True, tag="PV", tag_field="type"):
    """A paravirtualised guest."""


class Pvh(_Paravirtual, frozen=True, kw_only=True, tag="PVH", tag_field="type"):
    """A hardware-assisted guest without a device model."""


class PvInPvh(_Paravirtual, frozen=True, kw_only=True, tag="PVinPVH", tag_field="type"):
    """A paravirtualised guest inside the PV shim, itself a PVH guest."""


BuilderInfo = Hvm | Pv | Pvh | PvInPvh


class SchedulerPriority(Record, frozen=True, kw_only=True):
    """Credit scheduler: weight 1..65535 (256 is one share), cap in percent of one physical CPU (0: none)."""

    weight: Annotated[int, Meta(ge=1, le=65535)] = 256
    cap: Annotated[int, Meta(ge=0, le=65535)] = 0


class SchedulerParams(Record, frozen=True, kw_only=True):
    """`affinity[i]` lists the physical CPUs of vCPU i; entry 0 serves the vCPUs that have none of their own."""

    priority: Maybe[SchedulerPriority] = UNSET
    affinity: list[list[Annotated[int, Meta(ge=0, le=65535)]]] = field(default_factory=list)


class Vm(Record, frozen=True, kw_only=True):
    """A machine as it was registered; a change takes effect when it starts next, unless a call says otherwise."""

    id: VmId
    name: str = "unnamed"
    ty: BuilderInfo
    ssidref: Annotated[int, Meta(ge=0, le=0xFFFFFFFF)] = 0
    xsdata: dict[str, str] = field(default_factory=dict)
    platformdata: dict[str, str] = field(default_factory=dict)
    bios_strings: dict[str, str] = field(default_factory=dict)
    memory_static_max: Bytes = 64 * MIB
    memory_dynamic_max: Bytes = 64 * MIB
    memory_dynamic_min: Bytes = 64 * MIB
    vcpu_max: Annotated[int, Meta(ge=1, le=4096)] = 1
    vcpus: Annotated[int, Meta(ge=1, le=4096)] = 1
    scheduler_params: SchedulerParams = field(default_factory=SchedulerParams)
    on_crash: list[Action] = field(default_factory=lambda: [Action.SHUTDOWN])
    on_shutdown: list[Action] = field(default_factory=lambda: [Action.SHUTDOWN])
    on_reboot: list[Action] = field(default_factory=lambda: [Action.START])
    on_softreboot: list[Action] = field(default_factory=lambda: [Action.SOFTREBOOT])
    pci_msitranslate: bool = True
    pci_power_mgmt: bool = False
    has_vendor_device: bool = False
    generation_id: Maybe[str] = UNSET


class DomainType(Enum):
    """What kind of domain the hypervisor holds."""

    HVM = "HVM"
    PV = "PV"
    PV_IN_PVH = "PVinPVH"
    PVH = "PVH"
    UNDEFINED = "undefined"


class VmState(Record, frozen=True, kw_only=True):
    """What the hypervisor says of a machine now; a halted one has no domain and uses no memory."""

    power_state: PowerState
    domids: list[int] = field(default_factory=list)
    consoles: list[Console] = field(default_factory=list)
    memory_target: Bytes = 0
    memory_actual: Bytes = 0
    memory_limit: Bytes = 0
    vcpu_target: int = 0
    shadow_multiplier_target: float = 1.0
    rtc_timeoffset: str = ""
    uncooperative_balloon_driver: bool = False
    guest_agent: dict[str, str] = field(default_factory=dict)
    xsdata_state: dict[str, str] = field(default_factory=dict)
    pv_drivers_detected: bool = False
    last_start_time: Annotated[int, Meta(description="Unix milliseconds; 0 when it never started")] = 0
    hvm: bool = False
    domain_type: DomainType = DomainType.UNDEFINED
    nomigrate: bool = False
    nested_virt: bool = False
    featureset: str = ""


class VmStat(Record, frozen=True, kw_only=True):
    """A machine as registered and as it is."""

    vm: Vm
    state: VmState
    given_to: Maybe[str] = UNSET  # the queue of whom it belongs to, who has not confirmed that yet


class Added(Record, frozen=True, kw_only=True):
    """The answer to `add`: the id, and whether an existing record was replaced rather than a new one made."""

    id: str
    updated: bool


HALTED = VmState(power_state=PowerState.HALTED)
