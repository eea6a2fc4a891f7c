# SPDX-License-Identifier: Apache-2.0
"""Where the bytes of a disk are."""

from typing import Annotated

from msgspec import Meta

from xenops.types.ids import VmId
from xenops.types.record import Record


class Local(Record, frozen=True, kw_only=True, tag="Local", tag_field="type"):
    """A block device or a file in the control domain."""

    path: Annotated[str, Meta(min_length=1, max_length=4095)]
    format: str = "raw"


class Vdi(Record, frozen=True, kw_only=True, tag="VDI", tag_field="type"):
    """A virtual disk image of a storage service, written `SR/VDI`."""

    name: Annotated[str, Meta(min_length=1, max_length=1024)]


class RemoteDisk(Record, frozen=True, kw_only=True, tag="Remote", tag_field="type"):
    """A block device or a file in a driver domain, which finds and serves it; `path` is read there."""

    vm: VmId
    path: Annotated[str, Meta(min_length=1, max_length=4095)]


Disk = Local | Vdi | RemoteDisk
