# SPDX-License-Identifier: Apache-2.0
"""THE API: what can be asked of xenopsd, one namespace a file."""

from xenops.idl import Interface
from xenops.interfaces.xenops.debug import DEBUG
from xenops.interfaces.xenops.general import General
from xenops.interfaces.xenops.host import HOST
from xenops.interfaces.xenops.migration import Migration
from xenops.interfaces.xenops.pci import PCI
from xenops.interfaces.xenops.task import Task
from xenops.interfaces.xenops.updates import UPDATES
from xenops.interfaces.xenops.vbd import VBD
from xenops.interfaces.xenops.vgpu import VGPU
from xenops.interfaces.xenops.vif import VIF
from xenops.interfaces.xenops.vm import VM
from xenops.interfaces.xenops.vusb import VUSB

INTERFACES: tuple[type[Interface], ...] = (
    General,
    Task,
    HOST,
    VM,
    VBD,
    VIF,
    PCI,
    VUSB,
    VGPU,
    UPDATES,
    Migration,
    DEBUG,
)

__all__ = [
    "DEBUG",
    "HOST",
    "INTERFACES",
    "PCI",
    "UPDATES",
    "VBD",
    "VGPU",
    "VIF",
    "VM",
    "VUSB",
    "General",
    "Migration",
    "Task",
]
