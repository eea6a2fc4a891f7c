# SPDX-License-Identifier: Apache-2.0
"""What a configuration asks for, in the words of the wire: a machine and its devices, and what was passed over.

It chooses nothing at random and looks at no file: a configuration without a `uuid` takes the one that the caller
made, and a NIC without a `mac` leaves it to xenopsd.
"""

import re
import uuid as uuids
from dataclasses import dataclass

from xenops.types.metadata import Metadata
from xenops.types.record import UNSET
from xenops.types.vbd import Vbd
from xenops.types.vm import MIB, Action, SchedulerParams, SchedulerPriority, Vm
from xenops.xlcfg import guest, keys
from xenops.xlcfg.cpus import affinity
from xenops.xlcfg.devices import disk, pci, vif
from xenops.xlcfg.document import Document
from xenops.xlcfg.errors import ConfigWarning, Place

MAX_MIB = (1 << 52) // MIB  # what the wire takes
MAX_VCPUS = 4096
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
ACTIONS = {
    "destroy": [Action.SHUTDOWN],
    "restart": [Action.START],
    "preserve": [Action.PAUSE],
    "coredump-destroy": [Action.COREDUMP, Action.SHUTDOWN],
    "coredump-restart": [Action.COREDUMP, Action.START],
    "soft-reset": [Action.SOFTREBOOT],
}
EVENTS = {"on_poweroff": "destroy", "on_reboot": "restart", "on_crash": "destroy", "on_soft_reset": "soft-reset"}


@dataclass(frozen=True)
class Loaded:
    """The machine that a configuration describes, and everything in it that has no effect, by key and line."""

    metadata: Metadata
    warnings: tuple[ConfigWarning, ...]


def load(untrusted_text: str, *, filename: str = "<config>", uuid: str = "") -> Loaded:
    """Read a configuration; `uuid` names the machine if the text does not. A `ConfigError` says what is wrong where."""
    doc = Document(untrusted_text, filename)
    kind = guest.guest_kind(doc)
    metadata = _metadata(doc, kind, _identity(doc, uuid))
    for key in doc.unread():
        reason = f"it has no effect in this {kind.value} guest" if key in keys.TAKE_EFFECT else keys.without_effect(key)
        doc.warn(key, reason)
    return Loaded(metadata, tuple(sorted(doc.warnings, key=lambda warning: (warning.line, warning.column))))


def is_id(text: str) -> bool:
    """Whether a machine can have that id."""
    return _ID.fullmatch(text) is not None


def _identity(doc: Document, uuid: str) -> str:
    text = doc.text("uuid")
    if text is None and not uuid:
        doc.fail(Place(1, 1), "there is no uuid here, and none was made for this machine")
    if text is None:
        return uuid
    if not is_id(text.value):
        doc.fail(text, f"{text.value!r:.80} is not a UUID")
    try:
        uuids.UUID(text.value)
    except ValueError:
        doc.warn("uuid", "this is not a UUID; xl would refuse it", text)
    return text.value


def _metadata(doc: Document, kind: guest.GuestKind, vm: str) -> Metadata:
    hvm = kind is guest.GuestKind.HVM
    vbds = [disk.read(doc, text, vm, hvm=hvm) for text in doc.texts("disk")]
    _refuse_doubles(doc, vbds)
    pcis = [pci.read(doc, text, vm, position) for position, text in enumerate(doc.texts("pci"))]
    if len(pcis) > 256:
        doc.fail(doc.place("pci"), "a machine has at most 256 PCI devices")
    vcpus, vcpu_max = _vcpus(doc)
    memory, maxmem = _memory(doc)
    on = {key: _actions(doc, key) for key in EVENTS}
    machine = Vm(
        id=vm,
        name=_name(doc, vm),
        ty=guest.builder_info(doc, kind, vbds, pci=bool(pcis)),
        platformdata=guest.platform(doc, kind),
        memory_static_max=maxmem * MIB,
        memory_dynamic_max=memory * MIB,
        memory_dynamic_min=memory * MIB,
        vcpu_max=vcpu_max,
        vcpus=vcpus,
        scheduler_params=_scheduler(doc, vcpu_max),
        on_crash=on["on_crash"],
        on_shutdown=on["on_poweroff"],
        on_reboot=on["on_reboot"],
        on_softreboot=on["on_soft_reset"],
        pci_msitranslate=doc.boolean("pci_msitranslate") is not False,
        pci_power_mgmt=doc.boolean("pci_power_mgmt") or False,
        has_vendor_device=_vendor_device(doc),
    )
    return Metadata(vm=machine, vbds=vbds, vifs=vif.read(doc, doc.texts("vif"), vm, hvm=hvm), pcis=pcis)


def _refuse_doubles(doc: Document, vbds: list[Vbd]) -> None:
    taken: dict[object, int] = {}
    for index, vbd in enumerate(vbds):
        if vbd.position in taken:
            where = doc.texts("disk")[index]
            doc.fail(where, f"{vbd.id.dev} is taken already by the disk number {taken[vbd.position] + 1} of the list")
        taken[vbd.position] = index


def _name(doc: Document, vm: str) -> str:
    name = doc.string("name")
    if not name:
        doc.warn("name", "no name is given; the machine is called by its uuid", doc.place("name"))
    return name or vm


def _memory(doc: Document) -> tuple[int, int]:
    """Start target and maximum in MiB; each is the other where only one is given."""
    memory, maxmem = doc.integer("memory", 1, MAX_MIB), doc.integer("maxmem", 1, MAX_MIB)
    memory = memory or maxmem or 64
    maxmem = maxmem or memory
    if maxmem < memory:
        doc.fail(doc.place("maxmem"), f"maxmem, {maxmem}, is less than memory, {memory}")
    return memory, maxmem


def _vcpus(doc: Document) -> tuple[int, int]:
    vcpus, maximum = doc.integer("vcpus", 1, MAX_VCPUS), doc.integer("maxvcpus", 1, MAX_VCPUS)
    vcpus = vcpus or 1
    maximum = maximum or vcpus
    if maximum < vcpus:
        doc.fail(doc.place("maxvcpus"), f"maxvcpus, {maximum}, is less than vcpus, {vcpus}")
    return vcpus, maximum


def _scheduler(doc: Document, vcpus: int) -> SchedulerParams:
    weight, cap = doc.integer("cpu_weight", 1, 65535), doc.integer("cap", 0, 65535)
    priority = SchedulerPriority(weight=256 if weight is None else weight, cap=cap or 0)
    return SchedulerParams(
        priority=UNSET if weight is None and cap is None else priority, affinity=affinity(doc, vcpus)
    )


def _actions(doc: Document, key: str) -> list[Action]:
    text = doc.text(key)
    action = text.value if text else EVENTS[key]
    if text and action == "rename-restart":
        doc.warn(key, "the old domain cannot be kept under another name yet; this means restart", text)
        action = "restart"
    if text and action not in ACTIONS:
        choice = ", ".join([*ACTIONS, "rename-restart"])
        doc.fail(text, f"{key} is one of {choice}, not {action!r:.40}{keys.nearest(action, (*ACTIONS,))}")
    return list(ACTIONS[action])


def _vendor_device(doc: Document) -> bool:
    flag, vendor = doc.boolean("has_vendor_device"), doc.text("vendor_device")
    if vendor is None:
        return flag or False
    if vendor.value not in ("none", "xenserver"):
        doc.fail(vendor, f"vendor_device is none or xenserver, not {vendor.value!r:.40}")
    return flag if flag is not None else vendor.value == "xenserver"
