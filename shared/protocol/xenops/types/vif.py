# SPDX-License-Identifier: Apache-2.0
"""A virtual network interface of one VM."""

from typing import Annotated

from msgspec import Meta, field

from xenops.types.ids import DeviceId
from xenops.types.network import Bridge, Network
from xenops.types.record import UNSET, Maybe, Record


class Rate(Record, frozen=True, kw_only=True):
    """Transmit limit: kilobytes a second, granted every `timeslice_us` microseconds."""

    kbytes_per_s: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)]
    timeslice_us: Annotated[int, Meta(ge=1, le=0xFFFFFFFF)] = 50000


class Unlocked(Record, frozen=True, kw_only=True, tag="Unlocked", tag_field="type"):
    """All traffic passes."""


class Disabled(Record, frozen=True, kw_only=True, tag="Disabled", tag_field="type"):
    """No traffic passes."""


class Locked(Record, frozen=True, kw_only=True, tag="Locked", tag_field="type"):
    """Only traffic with the interface's MAC and one of these addresses passes."""

    ipv4: list[str] = field(default_factory=list)
    ipv6: list[str] = field(default_factory=list)


LockingMode = Unlocked | Disabled | Locked


class Unspecified4(Record, frozen=True, kw_only=True, tag="Unspecified4", tag_field="type"):
    """The guest decides."""


class Static4(Record, frozen=True, kw_only=True, tag="Static4", tag_field="type"):
    """Addresses in CIDR form, and a gateway, as a hint to the guest."""

    addresses: list[str]
    gateway: Maybe[str] = UNSET


class Dhcp4(Record, frozen=True, kw_only=True, tag="DHCP4", tag_field="type"):
    """The guest should ask a DHCP server."""


Ipv4Configuration = Unspecified4 | Static4 | Dhcp4


class Unspecified6(Record, frozen=True, kw_only=True, tag="Unspecified6", tag_field="type"):
    """The guest decides."""


class Static6(Record, frozen=True, kw_only=True, tag="Static6", tag_field="type"):
    """Addresses in CIDR form, and a gateway, as a hint to the guest."""

    addresses: list[str]
    gateway: Maybe[str] = UNSET


class Autoconf6(Record, frozen=True, kw_only=True, tag="Autoconf6", tag_field="type"):
    """The guest should listen to router advertisements."""


Ipv6Configuration = Unspecified6 | Static6 | Autoconf6


class PvsProxy(Record, frozen=True, kw_only=True):
    """A proxy that caches a streamed boot disk at this interface."""

    site: str
    servers: list[str]
    interface: str


class Vif(Record, frozen=True, kw_only=True):
    """A NIC as registered. `mac` is an address, "random", or "" for one derived from the VM's id and the position."""

    id: DeviceId
    position: Annotated[int, Meta(ge=0, le=255)] = 0
    mac: str = ""
    carrier: bool = True
    mtu: Annotated[int, Meta(ge=68, le=65535)] = 1500
    rate: Maybe[Rate] = UNSET
    backend: Network = field(default_factory=Bridge)
    model: Maybe[str] = UNSET
    script: Maybe[str] = UNSET
    vifname: Maybe[str] = UNSET
    ip: Maybe[str] = UNSET
    other_config: dict[str, str] = field(default_factory=dict)
    locking_mode: LockingMode = field(default_factory=Unlocked)
    extra_private_keys: dict[str, str] = field(default_factory=dict)
    ipv4_configuration: Ipv4Configuration = field(default_factory=Unspecified4)
    ipv6_configuration: Ipv6Configuration = field(default_factory=Unspecified6)
    pvs_proxy: Maybe[PvsProxy] = UNSET
    vlan: Maybe[Annotated[int, Meta(ge=0, le=4095)]] = UNSET
    trunks: list[Annotated[int, Meta(ge=0, le=4095)]] = field(default_factory=list)


class VifState(Record, frozen=True, kw_only=True):
    """Whether the NIC is there: `active` it is meant to be, `plugged` the guest has it; `device` is its name in the backend domain."""

    active: bool = False
    plugged: bool = False
    kthread_pid: int = 0
    media_present: bool = False
    device: Maybe[str] = UNSET
    pvs_rules_active: bool = False


class VifStat(Record, frozen=True, kw_only=True):
    """A NIC as registered and as it is."""

    vif: Vif
    state: VifState
