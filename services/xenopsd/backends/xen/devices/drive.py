# SPDX-License-Identifier: Apache-2.0
"""What is written of a drive, and what is read back. Pure.

The keys are xl 4.17's (libxl_disk.c); what blkback and QEMU add themselves is not ours to write.
"""

from collections.abc import Sequence

import msgspec

from xenops.errors import BadRequest
from xenops.types.device_number import Bus, DeviceNumber
from xenops.types.disk import Disk, Local
from xenops.types.record import UNSET, Maybe
from xenops.types.vbd import Mode, Qos, Vbd, VbdType
from xenopsd.backends.xen.devices.connection import Nodes
from xenopsd.backends.xen.devices.hotplug import located
from xenopsd.backends.xen.devices.loop import Loop
from xenopsd.backends.xen.devices.medium import SHARED_MODE, Medium, Way

_IDE_DISKS = 4
_DECODER = msgspec.json.Decoder(Disk)
_DEVICE_TYPE = {VbdType.CDROM: "cdrom", VbdType.DISK: "disk", VbdType.FLOPPY: "floppy"}
_EMPTY = "aio:"  # as xl has it; QEMU 7.2 crashes when it finds nothing at all
_BLOCK_SCRIPT = "/etc/xen/scripts/block"  # xl runs it when it takes a drive of ours away
# What the back end or the guest goes by: a record cannot change it.
_RESERVED = frozenset(
    {"frontend", "frontend-id", "online", "state", "physical-device", "physical-device-path", "node", "params", "type"}
    | {"hotplug-status", "hotplug-error", "mode", "dev", "removable", "device-type"}
)


def nodes(vbd: Vbd, number: DeviceNumber, medium: Medium | None, loop: Loop | None, *, pv: bool) -> Nodes:
    """All keys of a drive; no medium is an empty one. Raises `BadRequest` for an extra key that is none of the record's."""
    read_only = vbd.mode is Mode.READ_ONLY or vbd.ty is VbdType.CDROM
    qdisk = medium is None or medium.way is Way.QDISK
    front = {"virtual-device": str(number.to_key()), "device-type": _DEVICE_TYPE[vbd.ty], "trusted": "1"}
    if pv:
        front["protocol"] = "x86_64-abi"
    back = {
        "removable": "0" if vbd.ty is VbdType.DISK else "1",
        "bootable": "1",
        "dev": number.name,
        "type": "qdisk" if qdisk else "phy",
        "mode": "r" if read_only else "w",
        "device-type": _DEVICE_TYPE[vbd.ty],
        "discard-enable": "0" if read_only else "1",
        "specification": "xen",
        "params": medium.params if medium else _EMPTY,
        **({} if qdisk else {"script": located(vbd.extra_backend_keys.get("script", _BLOCK_SCRIPT))}),
        **_extra(vbd),
    }
    note = {
        "id": vbd.id.dev,
        "medium": msgspec.json.encode(vbd.backend).decode() if vbd.backend is not UNSET else "",
        "params": back["params"],
        "qos": msgspec.json.encode(vbd.qos).decode() if vbd.qos is not UNSET else "",
        **({"script": back["script"]} if medium is not None and medium.way is Way.SCRIPT else {}),
        **{f"extra/{key}": value for key, value in vbd.extra_private_keys.items()},
    }
    return Nodes(front, back, note, _hotplug(medium, loop))


def _hotplug(medium: Medium | None, loop: Loop | None) -> dict[str, str]:
    """What a hotplug script would have found out."""
    if medium is None or medium.way is Way.QDISK:
        return {"hotplug-status": "connected"}
    if medium.way in (Way.SCRIPT, Way.REMOTE):
        return {}  # they will
    path = loop.path if loop else medium.path
    return {
        "physical-device": loop.physical if loop else medium.physical,
        "physical-device-path": path,
        **({"node": path} if loop else {}),
        "hotplug-status": "connected",
    }


def _extra(vbd: Vbd) -> dict[str, str]:
    extra = {key: value for key, value in vbd.extra_backend_keys.items() if key not in ("script", "backend-kind")}
    if extra.get("mode") == SHARED_MODE:
        del extra["mode"]
    for key in extra:
        if key in _RESERVED or not all(
            part and part.replace("-", "").replace("_", "").isalnum() for part in key.split("/")
        ):
            raise BadRequest(f"vbd.extra_backend_keys.{key:.40}", "this key is not the record's to write")
    return extra


def next_number(devids: Sequence[int], *, hvm: bool) -> DeviceNumber:
    """Behind the last drive."""
    disk = 1 + max((DeviceNumber.from_key(devid).disk for devid in devids), default=-1)
    return DeviceNumber(Bus.IDE if hvm and disk < _IDE_DISKS else Bus.XEN, disk)


def qos(text: str | None) -> Maybe[Qos]:
    """The priority in a note."""
    return msgspec.json.decode(text, type=Qos) if text else UNSET


def medium_present(noted: str | None, params_noted: str | None, params: str | None) -> Maybe[Disk]:
    """What is in the drive: what we put there, unless the back end's `params` say that others changed it since."""
    if not params:
        return UNSET
    if noted and params == params_noted:
        known: Disk = _DECODER.decode(noted)
        return known
    format, colon, path = params.partition(":")
    if not colon or format.startswith("/"):
        return Local(path=params)
    return Local(path=path, format="raw" if format == "aio" else format) if path else UNSET
