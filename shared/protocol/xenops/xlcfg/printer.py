# SPDX-License-Identifier: Apache-2.0
"""Write a machine down in the configuration language, and say in comments what the language cannot say.

What it cannot say is not listed anywhere: what was written is read back, and every difference becomes a comment.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from xenops.types.metadata import Metadata
from xenops.types.vm import MIB, Action, Boot, Direct, Hvm, Indirect, Pv, PvInPvh, Uefi, Vm
from xenops.xlcfg import cpus, explain, guest
from xenops.xlcfg.devices import disk, pci, vif
from xenops.xlcfg.errors import ConfigError
from xenops.xlcfg.guest import GuestKind

D = TypeVar("D")
Value = str | int | list[str]
_WIDTH = 80
_NUMBER = re.compile(r"-?(0|[1-9][0-9]{0,9})")


def dump(metadata: Metadata) -> str:
    """The configuration of that machine; `load` gives it back, but for what stands in comments at the end."""
    text = "".join(f"{key} = {_spell(value)}\n" for key, value in _settings(metadata))
    reread = explain.load(text, filename="<printed>", uuid=metadata.vm.id).metadata
    lost = list(_differences("", _by_name(metadata), _by_name(reread)))
    return text + "".join(f"# not expressible: {path} = {value}\n" for path, value in lost)


def _settings(metadata: Metadata) -> Iterator[tuple[str, Value]]:
    vm = metadata.vm
    yield "name", vm.name
    if explain.is_id(vm.id):
        yield "uuid", vm.id
    yield from _guest(metadata)
    yield from _resources(vm)
    yield from _events(vm)
    yield "disk", _entries("disk", disk.write, metadata.vbds)
    yield "vif", _entries("vif", vif.write, metadata.vifs)
    yield "pci", _entries("pci", pci.write, metadata.pcis)
    yield "pci_msitranslate", int(vm.pci_msitranslate)
    yield "pci_power_mgmt", int(vm.pci_power_mgmt)
    if vm.has_vendor_device:
        yield "has_vendor_device", 1


def _entries(key: str, write: Callable[[Sequence[D]], list[str]], devices: Sequence[D]) -> list[str]:
    """The entries of the devices that `load` would not refuse: the wire allows some that this language does not."""
    return write([device for device in devices if _readable(key, write([device]))])


def _readable(key: str, entries: list[str]) -> bool:
    try:
        explain.load(f"type = 'hvm'\n{key} = {_spell(entries)}\n", uuid="x")
    except ConfigError:
        return False  # the comments at the end tell of it
    return True


def _guest(metadata: Metadata) -> Iterator[tuple[str, Value]]:
    ty = metadata.vm.ty
    kind = _kind(metadata.vm)
    yield "type", kind.value.partition(" ")[0]
    if kind is GuestKind.PV_IN_PVH:
        yield "pvshim", 1
    if isinstance(ty, Hvm):
        yield from _hvm(ty)
    else:
        yield from _boot(ty.boot)
        if ty.framebuffer:
            yield "vnc", 1
            yield from _unless_empty("vnclisten", ty.framebuffer_ip)
    if ty.pci_passthrough and not metadata.pcis:
        yield "passthrough", "enabled"
    yield from _platform(metadata.vm.platformdata, kind)


def _kind(vm: Vm) -> GuestKind:
    if isinstance(vm.ty, Hvm):
        return GuestKind.HVM
    if isinstance(vm.ty, PvInPvh):
        return GuestKind.PV_IN_PVH
    return GuestKind.PV if isinstance(vm.ty, Pv) else GuestKind.PVH


def _hvm(hvm: Hvm) -> Iterator[tuple[str, Value]]:
    if guest.BOOT_ORDERS.fullmatch(hvm.boot_order):
        yield "boot", hvm.boot_order
    if not hvm.hap:
        yield "hap", 0
    if isinstance(hvm.firmware, Uefi):
        yield "bios", "ovmf"
    if _NUMBER.fullmatch(hvm.timeoffset) and int(hvm.timeoffset) in guest.SECONDS:
        yield "rtc_timeoffset", int(hvm.timeoffset)
    if 0 < hvm.video_mib <= 4096:
        yield "videoram", hvm.video_mib
    yield from (("vga", name) for name, video in guest.VIDEO.items() if video is hvm.video)
    yield from _unless_empty("vnclisten", hvm.vnc_ip)
    if not isinstance(hvm.vnc_ip, str):
        yield "vnc", 0
    yield from _unless_empty("serial", hvm.serial)
    yield from _unless_empty("keymap", hvm.keymap)
    yield from _unless_empty("vtpm", hvm.tpm)


def _boot(boot: Boot) -> Iterator[tuple[str, Value]]:
    match boot:
        case Direct():
            yield "kernel", boot.kernel or "/"
            yield from _unless_empty("ramdisk", boot.ramdisk)
            yield from _unless_empty("cmdline", boot.cmdline)
        case Indirect():
            yield "bootloader", boot.bootloader or "/"
            yield from _unless_empty("cmdline", boot.extra_args)
            if boot.bootloader_args:
                yield "bootloader_args", _arguments(boot.bootloader_args)


def _arguments(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:  # a quote that is not closed; what is lost by it ends up in a comment
        return text.split()


def _platform(flags: dict[str, str], kind: GuestKind) -> Iterator[tuple[str, Value]]:
    for key, flag, numbers, kinds in guest.PLATFORM:
        value = flags.get(flag)
        if kind not in kinds or value is None or value == guest.PLATFORM_DEFAULTS.get(flag):
            continue
        if numbers and _NUMBER.fullmatch(value) and int(value) in numbers:
            yield key, int(value)
        elif not numbers and value in ("true", "false"):
            yield key, int(value == "true")
    if kind is GuestKind.HVM and flags.get("hdtype") in guest.HD_TYPES:
        yield "hdtype", flags["hdtype"]
    if kind is GuestKind.PV_IN_PVH:
        yield from _unless_empty("pvshim_cmdline", flags.get("pvinpvh-xen-cmdline", ""))


def _resources(vm: Vm) -> Iterator[tuple[str, Value]]:
    # A guest is never printed smaller than it is; a fraction of a MiB is not expressible.
    memory, maxmem = _mib(vm.memory_dynamic_max), _mib(vm.memory_static_max)
    yield "memory", memory
    if maxmem > memory:
        yield "maxmem", maxmem
    vcpus = min(max(vm.vcpus, 1), explain.MAX_VCPUS)
    yield "vcpus", vcpus
    if vcpus < vm.vcpu_max <= explain.MAX_VCPUS:
        yield "maxvcpus", vm.vcpu_max
    priority = vm.scheduler_params.priority
    if isinstance(priority, msgspec.Struct):
        yield "cpu_weight", priority.weight
        yield "cap", min(priority.cap, 65535)
    lists = vm.scheduler_params.affinity
    if lists and all(pinned and min(pinned) >= 0 and max(pinned) <= cpus.MAX_CPU for pinned in lists):
        yield "cpus", [cpus.spell(pinned) for pinned in lists] if len(lists) > 1 else cpus.spell(lists[0])


def _mib(size: int) -> int:
    return min(max(-(-size // MIB), 1), explain.MAX_MIB)


def _events(vm: Vm) -> Iterator[tuple[str, Value]]:
    lists: dict[str, list[Action]] = {
        "on_poweroff": vm.on_shutdown,
        "on_reboot": vm.on_reboot,
        "on_crash": vm.on_crash,
        "on_soft_reset": vm.on_softreboot,
    }
    for key, actions in lists.items():
        yield from ((key, word) for word, meant in explain.ACTIONS.items() if meant == actions)


def _unless_empty(key: str, value: object) -> Iterator[tuple[str, Value]]:
    if isinstance(value, str) and value:
        yield key, value


def _spell(value: Value) -> str:
    if isinstance(value, int):
        return str(value) if value >= 0 else _quote(str(value))
    if isinstance(value, list):
        items = [_quote(item) for item in value]
        line = f"[ {', '.join(items)} ]" if items else "[ ]"
        return line if len(line) < _WIDTH else "[\n" + "".join(f"    {item},\n" for item in items) + "]"
    return _quote(value)


def _quote(text: str) -> str:
    """In single quotes; control characters as escapes. A NUL has no place in the language and is left out."""
    escapes = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\0": ""}
    plain = (escapes.get(c, f"\\x{ord(c):02x}" if ord(c) < 32 else c) for c in text)
    return "'" + "".join(plain) + "'"


def _by_name(metadata: Metadata) -> Any:
    """The machine as plain data, its devices under their names: one that is lost must not shift the others."""
    data = msgspec.to_builtins(metadata)
    for kind in ("vbds", "vifs", "pcis", "vgpus", "vusbs"):
        data[kind] = {device["id"]["dev"]: device for device in data[kind]}
    return data


def _differences(path: str, ours: Any, theirs: Any) -> Iterator[tuple[str, str]]:
    """What the first has and the second has not, by path."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in [*ours, *(key for key in theirs if key not in ours)]:
            # A key that came over the wire must not end the comment and begin a setting.
            step = key if re.fullmatch(r"[\w/:-]+", key, re.ASCII) else json.dumps(key)
            yield from _differences(f"{path}.{step}" if path else step, ours.get(key), theirs.get(key))
    elif ours != theirs:
        # `domains` and other opaque state may hold bytes, which JSON cannot.
        yield path, json.dumps(ours, default=repr)
