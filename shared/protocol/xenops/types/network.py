# SPDX-License-Identifier: Apache-2.0
"""What a NIC is connected to."""

from xenops.types.ids import VmId
from xenops.types.pci_address import PciAddress
from xenops.types.record import Record


class Bridge(Record, frozen=True, kw_only=True, tag="Local", tag_field="type"):
    """A bridge in the control domain; it must exist, nobody creates it here."""

    bridge: str = "xenbr0"


class Remote(Record, frozen=True, kw_only=True, tag="Remote", tag_field="type"):
    """A bridge in a driver domain."""

    vm: VmId
    bridge: str


class Sriov(Record, frozen=True, kw_only=True, tag="Sriov", tag_field="type"):
    """A virtual function of a network card."""

    address: PciAddress


Network = Bridge | Remote | Sriov
