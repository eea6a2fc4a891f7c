# SPDX-License-Identifier: Apache-2.0
"""A virtual graphics processor of one VM."""

from typing import Annotated

from msgspec import Meta, field

from xenops.types.ids import DeviceId
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET, Maybe, Record

_Size = Annotated[int, Meta(ge=0, le=1 << 52)]


class GvtG(Record, frozen=True, kw_only=True, tag="GVT_g", tag_field="type"):
    """Intel mediated passthrough."""

    low_gm_sz: _Size
    high_gm_sz: _Size
    fence_sz: _Size
    monitor_config_file: Maybe[str] = UNSET


class Nvidia(Record, frozen=True, kw_only=True, tag="Nvidia", tag_field="type"):
    """NVIDIA vGPU, emulated by a process of its own."""

    config_file: Maybe[str] = UNSET
    virtual_pci_address: PciAddress = field(default_factory=lambda: PciAddress(bus=0, dev=11, fn=0))
    type_id: str = ""
    uuid: str = ""
    vclass: str = ""
    extra_args: str = ""


class MxGpu(Record, frozen=True, kw_only=True, tag="MxGPU", tag_field="type"):
    """AMD MxGPU: a virtual function of the card."""

    vgpus_per_pgpu: Annotated[int, Meta(ge=0, le=65535)]
    framebufferbytes: _Size


class Empty(Record, frozen=True, kw_only=True, tag="Empty", tag_field="type"):
    """No implementation: a place holder."""


Implementation = GvtG | Nvidia | MxGpu | Empty


class Vgpu(Record, frozen=True, kw_only=True):
    """A virtual GPU as registered."""

    id: DeviceId
    position: Annotated[int, Meta(ge=0, le=255)] = 0
    virtual_pci_address: Maybe[PciAddress] = UNSET
    physical_pci_address: PciAddress
    implementation: Implementation


class VgpuState(Record, frozen=True, kw_only=True):
    """Whether the virtual GPU is there, and which process emulates it."""

    active: bool = False
    plugged: bool = False
    emulator_pid: Maybe[int] = UNSET


class VgpuStat(Record, frozen=True, kw_only=True):
    """A virtual GPU as registered and as it is."""

    vgpu: Vgpu
    state: VgpuState
