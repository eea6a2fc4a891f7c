# SPDX-License-Identifier: Apache-2.0
"""A USB device of the host, given to one VM."""

from typing import Annotated

from msgspec import Meta

from xenops.types.ids import DeviceId
from xenops.types.record import Record


class Vusb(Record, frozen=True, kw_only=True):
    """A passed-through USB device by its place on the host's buses."""

    id: DeviceId
    hostbus: str
    hostport: str
    version: str = "2.0"
    path: str = ""
    speed: Annotated[float, Meta(ge=0, le=1e6, description="Mbit/s")] = 0.0


class VusbState(Record, frozen=True, kw_only=True):
    """Whether the guest has the device."""

    plugged: bool = False


class VusbStat(Record, frozen=True, kw_only=True):
    """A USB device as registered and as it is."""

    vusb: Vusb
    state: VusbState
