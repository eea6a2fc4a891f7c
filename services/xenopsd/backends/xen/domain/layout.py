# SPDX-License-Identifier: Apache-2.0
"""A guest's tree in xenstore: what is written when its domain is made, built and taken away.

    /vm/<uuid>                    name, uuid, rtc/timeoffset, image/...          guest reads
    /local/domain/<n>             vm, name, domid, cpu, memory, device, ...      guest reads
    /local/domain/<n>/control     shutdown, feature-*                            guest writes
    /libxl/<n>                    type: lets xl's tools work on our domains      control domain
    /xenopsd/domain/<n>           what must be found again after a restart       control domain
    /xenopsd/machine/<uuid>       which machine has which domain                 control domain

A node has the permissions that the one above it had when it was made, unless others are given. So they are given only
where they change, and what the guest may write is made while all of its tree is the guest's, as nobody sees before the
transaction ends: half the requests, and xenstored's answers are a large part of what a start costs.

Laid out as xl 4.17 does it (docs/misc/xenstore-paths.pandoc), with the notes of our own kept apart. Differences are
explained in docs/xenstore.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from uuid import UUID, uuid5

from xenops.types.vm import Bios, Hvm, Pv, Vm
from xenopsd.backends.xen.domain.memory import MemoryPlan
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, SetPerms, Write

OURS = ("n0",)
# It knows no words: whatever begins with a 1 is true to it.
_READ_BY_HVMLOADER = {"acpi", "acpi_s3", "acpi_s4", "acpi_laptop_slate"}
_DIGITS = {"true": "1", "yes": "1", "on": "1", "false": "0", "no": "0", "off": "0"}
_CONSOLE_LIMIT = "1048576"
# What a guest may write: it acknowledges requests here, and tells what it can do.
_GUEST_WRITES = (
    "control/shutdown",
    "control/feature-poweroff",
    "control/feature-reboot",
    "control/feature-suspend",
    "control/sysrq",
    "data",
    "drivers",
    "feature",
    "attr",
    "error",
)
_A_PC_WRITES = ("control/feature-s3", "control/feature-s4")
_OURS = UUID("7c1d8a52-6b1f-5e0b-9d0e-3f2f5a0c4be1")  # machines whose id is no UUID get one below this one


def handle_of(vm: str) -> UUID:
    """The handle of a machine's domain, by which Xen and xl's tools know it.

    The machine's id when that is a UUID, else one that is always the same for this id.
    """
    try:
        return UUID(vm)
    except ValueError:
        return uuid5(_OURS, vm)


def domain(domid: int) -> str:
    """A domain's own tree."""
    return f"/local/domain/{domid}"


def private(domid: int) -> str:
    """What we keep about a domain."""
    return f"/xenopsd/domain/{domid}"


def machine(handle: UUID) -> str:
    """Which domain a machine has."""
    return f"/xenopsd/machine/{handle}"


def claim(nonce: UUID) -> str:
    """A domain that is about to be made for a machine."""
    return f"/xenopsd/claim/{nonce}"


def libxl(domid: int) -> str:
    """Where xl's tools look."""
    return f"/libxl/{domid}"


def vm_tree(handle: UUID) -> str:
    """The machine's tree, which outlives its domain in a local migration."""
    return f"/vm/{handle}"


@dataclass(frozen=True)
class Rings:
    """How a domain reaches its store and its console: a machine frame and an event channel each."""

    store_frame: int
    store_port: int
    console_frame: int
    console_port: int


def created(vm: Vm, handle: UUID, domid: int, nonce: UUID, *, created_ms: int) -> list[Change]:
    """All that a domain has from its first moment, in one transaction."""
    guest_reads, guest_owns = ("n0", f"r{domid}"), (f"n{domid}",)
    top, tree = domain(domid), vm_tree(handle)

    def changes() -> Iterator[Change]:
        yield Remove(top)
        yield Mkdir(top, guest_owns)
        yield from _guests_part(vm, top)
        yield SetPerms(f"{top}/control", guest_reads)
        yield SetPerms(top, guest_reads)
        yield from _vm_tree(vm, handle, guest_reads, created_ms)
        yield Remove(libxl(domid))
        yield Write(f"{libxl(domid)}/type", xl_type(vm))
        yield Write(f"{top}/vm", tree)
        yield Write(f"{top}/name", vm.name)
        yield Write(f"{top}/domid", str(domid))
        yield Write(f"{top}/device/suspend/event-channel", "", guest_owns)
        yield Write(f"{top}/control/platform-feature-multiprocessor-suspend", "1")
        yield Write(f"{top}/control/platform-feature-xs_reset_watches", "1")
        for number in range(vm.vcpu_max):
            yield Write(f"{top}/cpu/{number}/availability", _line(number, vm.vcpus))
        yield Write(f"{top}/console/type", "xenconsoled")
        yield Write(f"{top}/console/output", "pty")
        yield Write(f"{top}/console/limit", _CONSOLE_LIMIT)
        yield Write(f"{top}/console/tty", "")  # xenconsoled fills it in
        if isinstance(vm.ty, Pv | Hvm):
            yield Write(f"{tree}/image/ostype", "linux" if isinstance(vm.ty, Pv) else "hvm")
        yield from _platform(vm, top)
        yield from _notes(vm, handle, domid, created_ms)
        yield Remove(claim(nonce))

    return list(changes())


def _notes(vm: Vm, handle: UUID, domid: int, created_ms: int) -> Iterator[Change]:
    yield Remove(private(domid))
    yield Write(f"{private(domid)}/machine", vm.id)
    yield Write(f"{private(domid)}/created", str(created_ms))
    yield Write(f"{private(domid)}/action", "discard")  # until it is whole
    yield Write(f"{private(domid)}/console-kind", "ioemu" if isinstance(vm.ty, Hvm) else "xenconsoled")
    yield Write(f"{machine(handle)}/id", vm.id)
    yield Write(f"{machine(handle)}/domid", str(domid))


def _vm_tree(vm: Vm, handle: UUID, guest_reads: tuple[str, ...], created_ms: int) -> Iterator[Change]:
    tree = vm_tree(handle)
    yield Remove(tree)
    yield Mkdir(tree, guest_reads)
    yield Write(f"{tree}/uuid", str(handle))
    yield Write(f"{tree}/name", vm.name)
    yield Write(f"{tree}/start_time", f"{created_ms // 1000}.{created_ms % 1000 // 10:02}")  # `xl uptime` reads it


def _guests_part(vm: Vm, top: str) -> Iterator[Change]:
    for path in (*_GUEST_WRITES, *(_A_PC_WRITES if isinstance(vm.ty, Hvm) else ())):
        yield Write(f"{top}/{path}")
    yield Mkdir(f"{top}/vm-data")
    for key, value in guest_data(vm.xsdata).items():
        yield Write(f"{top}/{key}", value)


def _platform(vm: Vm, top: str) -> Iterator[Change]:
    platform = dict(vm.platformdata)
    if isinstance(vm.ty, Hvm):
        usual = {"acpi_s3": "1", "acpi_s4": "1", "acpi_laptop_slate": "0", "device-model": "qemu_xen"}
        platform = {"acpi": str(int(vm.ty.acpi)), **usual, **platform}
        platform |= {
            key: _DIGITS.get(platform[key].lower(), platform[key]) for key in _READ_BY_HVMLOADER & platform.keys()
        }
        if vm.generation_id:
            platform.setdefault("generation-id", str(vm.generation_id))
    for key, value in sorted(platform.items()):
        yield Write(f"{top}/platform/{key}", value)
    for key, value in sorted(vm.bios_strings.items()):
        yield Write(f"{top}/bios-strings/{key}", value)
    if isinstance(vm.ty, Hvm):
        yield Write(f"{top}/hvmloader/bios", "seabios" if isinstance(vm.ty.firmware, Bios) else "ovmf")
        yield Write(f"{top}/hvmloader/allow-memory-relocate", "0")


def built(vm: Vm, handle: UUID, domid: int, rings: Rings, plan: MemoryPlan, *, timeoffset: str) -> list[Change]:
    """What a guest finds when it boots: its memory, its processors, its store and its console."""
    top, tree = domain(domid), vm_tree(handle)

    def changes() -> Iterator[Change]:
        yield Write(f"{top}/memory/static-max", str(plan.static_max_kib))
        yield Write(f"{top}/memory/target", str(plan.target_kib - plan.video_kib))
        yield Write(f"{top}/memory/videoram", str(plan.video_kib))
        yield Write(f"{top}/store/port", str(rings.store_port))
        yield Write(f"{top}/store/ring-ref", str(rings.store_frame))
        yield Write(f"{top}/console/port", str(rings.console_port))
        yield Write(f"{top}/console/ring-ref", str(rings.console_frame))
        if isinstance(vm.ty, Hvm):
            yield Write(f"{tree}/rtc/timeoffset", timeoffset)
        yield Write(f"{private(domid)}/target", str(plan.target_kib))
        yield Write(f"{private(domid)}/built", "1")

    return list(changes())


def renamed(vm: Vm, to: Vm, domid: int, tree: Mapping[str, str]) -> list[Change]:
    """A domain of one machine is another's; `tree` is all that the machine's tree holds, below it."""
    before, after = handle_of(vm.id), handle_of(to.id)
    guest_reads = ("n0", f"r{domid}")

    def changes() -> Iterator[Change]:
        yield Remove(vm_tree(before))
        yield Remove(vm_tree(after))
        yield Mkdir(vm_tree(after), guest_reads)
        for path, value in {**tree, "uuid": str(after), "name": to.name}.items():
            yield Write(f"{vm_tree(after)}/{path}", value)
        yield Write(f"{domain(domid)}/vm", vm_tree(after))
        yield Write(f"{domain(domid)}/name", to.name)
        yield Write(f"{private(domid)}/machine", to.id)
        yield Write(was(domid), vm.id)
        yield Remove(machine(before))
        yield Write(f"{machine(after)}/id", to.id)
        yield Write(f"{machine(after)}/domid", str(domid))

    return list(changes())


def was(domid: int) -> str:
    """Whose a domain was until it was renamed, for as long as it may have the handle of that machine."""
    return f"{private(domid)}/was"


def gone(handle: UUID, domid: int, *, last: bool) -> list[Change]:
    """Nothing of a domain is left; `last` when the machine has no other domain."""
    ends: list[Change] = [
        Remove(domain(domid)),
        Remove(libxl(domid)),
        Remove(private(domid)),
        Remove(f"/local/domain/0/device-model/{domid}"),
    ]
    return [*ends, Remove(vm_tree(handle)), Remove(machine(handle))] if last else ends


def guest_data(xsdata: Mapping[str, str]) -> dict[str, str]:
    """The keys of a record that a guest may see: below vm-data/ alone, and no way out of it."""
    return {
        key: value
        for key, value in xsdata.items()
        if key.startswith("vm-data/") and all(part and part not in (".", "..") for part in key.split("/"))
    }


def vcpus(domid: int, total: int, online: int) -> list[Change]:
    """Which vCPUs a guest should have on line, other than it was registered with."""
    lines = [Write(f"{domain(domid)}/cpu/{number}/availability", _line(number, online)) for number in range(total)]
    return [*lines, Write(f"{private(domid)}/vcpus", str(online))]


def xl_type(vm: Vm) -> str:
    """What xl's tools call this kind of guest."""
    if isinstance(vm.ty, Hvm):
        return "hvm"
    return "pv" if isinstance(vm.ty, Pv) else "pvh"


def _line(number: int, online: int) -> str:
    return "online" if number < online else "offline"
