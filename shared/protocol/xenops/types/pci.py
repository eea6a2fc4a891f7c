# SPDX-License-Identifier: Apache-2.0
"""A PCI device of the host, given to one VM."""

from typing import Annotated

from msgspec import Meta

from xenops.types.ids import DeviceId
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET, Maybe, Record


class Pci(Record, frozen=True, kw_only=True):
    """A passed-through function; absent flags follow the VM's own `pci_msitranslate` and `pci_power_mgmt`."""

    id: DeviceId
    position: Annotated[int, Meta(ge=0, le=255)] = 0
    address: PciAddress
    msitranslate: Maybe[bool] = UNSET
    power_mgmt: Maybe[bool] = UNSET


class PciState(Record, frozen=True, kw_only=True):
    """Whether the guest has the device."""

    plugged: bool = False


class PciStat(Record, frozen=True, kw_only=True):
    """A PCI device as registered and as it is."""

    pci: Pci
    state: PciState
