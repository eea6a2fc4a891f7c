# SPDX-License-Identifier: Apache-2.0
"""The names by which things are asked for: VM ids, device ids, task ids."""

from typing import Annotated

from msgspec import Meta

from xenops.types.record import Record

# A VM id becomes a xenstore path element, a file name and a routing key: it may hold nothing that any of them splits on.
VmId = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*\Z",
        description="the machine's id, usually a UUID",
    ),
]
DeviceName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.:-]*\Z",
        description="the device's name within its VM",
    ),
]
TaskId = Annotated[str, Meta(min_length=1, max_length=64, description="the id of a task")]


class DeviceId(Record, frozen=True, kw_only=True, order=True):
    """A device is named by its VM and by a name that is unique among that VM's devices of the kind."""

    vm: VmId
    dev: DeviceName

    def __str__(self) -> str:
        return f"{self.vm}.{self.dev}"
