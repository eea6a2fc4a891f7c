# SPDX-License-Identifier: Apache-2.0
"""The columns in which devices are listed."""

from typing import Any

from msgspec import UNSET

from xenops.types.disk import Disk, Local, RemoteDisk
from xenops.types.network import Bridge, Network, Sriov
from xenops_cli.render.tables import GREEN, Column

PLUGGED = Column("plugged", "Plugged", lambda stat: "yes" if stat.state.plugged else "no", paint={"yes": GREEN})


def _or_dash(value: Any) -> object:
    return "-" if value is UNSET or value == "" else value


def disk(value: Any) -> str:
    """The bytes of a disk in the spelling of xl; an empty drive is a dash."""
    return "-" if value is UNSET else _disk(value)


def _disk(value: Disk) -> str:
    match value:
        case Local(path=path):
            return f"phy:{path}"
        case RemoteDisk(vm=vm, path=path):
            return f"{vm}:{path}"
        case _:
            return f"sm:{value.name}"


def network(value: Network) -> str:
    """What a NIC is connected to."""
    if isinstance(value, Bridge):
        return value.bridge
    return str(value.address) if isinstance(value, Sriov) else f"{value.vm}:{value.bridge}"


VBDS = (
    Column("id", "ID", lambda s: s.vbd.id.dev),
    Column("position", "Position", lambda s: _or_dash(s.vbd.position)),
    Column("mode", "Mode", lambda s: s.vbd.mode.value),
    Column("type", "Type", lambda s: s.vbd.ty.value),
    PLUGGED,
    Column("disk", "Disk", lambda s: disk(s.vbd.backend)),
    Column("present", "Present", lambda s: disk(s.state.backend_present), usual=False),
)
VIFS = (
    Column("id", "ID", lambda s: s.vif.id.dev),
    Column("position", "Position", lambda s: s.vif.position, right=True),
    Column("mac", "MAC", lambda s: _or_dash(s.vif.mac)),
    Column("network", "Network", lambda s: network(s.vif.backend)),
    PLUGGED,
    Column("device", "Device", lambda s: _or_dash(s.state.device)),
    Column("mtu", "MTU", lambda s: s.vif.mtu, right=True, usual=False),
    Column("carrier", "Carrier", lambda s: "yes" if s.vif.carrier else "no", usual=False),
)
PCIS = (
    Column("id", "ID", lambda s: s.pci.id.dev),
    Column("position", "Position", lambda s: s.pci.position, right=True),
    Column("address", "Address", lambda s: s.pci.address),
    PLUGGED,
)
VUSBS = (
    Column("id", "ID", lambda s: s.vusb.id.dev),
    Column("bus", "Bus", lambda s: s.vusb.hostbus),
    Column("port", "Port", lambda s: s.vusb.hostport),
    Column("version", "Version", lambda s: s.vusb.version),
    PLUGGED,
)
VGPUS = (
    Column("id", "ID", lambda s: s.vgpu.id.dev),
    Column("position", "Position", lambda s: s.vgpu.position, right=True),
    Column("address", "Address", lambda s: s.vgpu.physical_pci_address),
    Column("type", "Type", lambda s: type(s.vgpu.implementation).__struct_config__.tag),
    PLUGGED,
)
