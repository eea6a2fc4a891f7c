# SPDX-License-Identifier: Apache-2.0
"""All that is known of one machine: what `export` writes and `import` reads, without loss."""

from typing import Any

from msgspec import field

from xenops.types.pci import Pci
from xenops.types.record import UNSET, Maybe, Record
from xenops.types.vbd import Vbd
from xenops.types.vgpu import Vgpu
from xenops.types.vif import Vif
from xenops.types.vm import Vm
from xenops.types.vusb import Vusb


class Metadata(Record, frozen=True, kw_only=True):
    """A VM, its devices in order, and the backend's own opaque state when it holds any."""

    vm: Vm
    vbds: list[Vbd] = field(default_factory=list)
    vifs: list[Vif] = field(default_factory=list)
    pcis: list[Pci] = field(default_factory=list)
    vgpus: list[Vgpu] = field(default_factory=list)
    vusbs: list[Vusb] = field(default_factory=list)
    domains: Maybe[dict[str, Any]] = UNSET
