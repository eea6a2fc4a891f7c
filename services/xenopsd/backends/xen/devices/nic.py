# SPDX-License-Identifier: Apache-2.0
"""What is written of a network interface. Pure.

The keys are xl 4.17's (libxl_nic.c, and vif-bridge for the MTU); what netback adds itself is not ours to write.
"""

import re

from xenops.errors import BadRequest
from xenops.types.network import Bridge, Remote
from xenops.types.record import UNSET
from xenops.types.vif import Disabled, Ipv4Configuration, Ipv6Configuration, Rate, Static4, Static6, Vif
from xenopsd.backends.xen.devices.connection import Nodes
from xenopsd.backends.xen.xenstore.changes import Change, Mkdir, Remove, Write

BRIDGE_SCRIPT = "/etc/xen/scripts/vif-bridge"  # xl runs it when it takes an interface of ours away
_DEFAULT_MTU = 1500
_LIMIT = 0xFFFFFFFF  # netback reads both numbers of a rate as unsigned 32-bit ones
_MAC = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}")
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,14}")


def nodes(vif: Vif, *, hvm: bool, script: str, device: str) -> Nodes:
    """All keys of an interface. Raises `BadRequest`."""
    if not _MAC.fullmatch(vif.mac):
        raise BadRequest("vif.mac", f"{vif.mac!r:.40} is no MAC address; write 00:16:3e:xx:xx:xx")
    bridge = vif.backend.bridge if isinstance(vif.backend, Bridge | Remote) else ""
    front = {"handle": str(vif.position), "mac": vif.mac, "trusted": "1"}
    if not carrier(vif):
        front["disconnect"] = "1"
    back = {
        "script": script or BRIDGE_SCRIPT,
        "mac": vif.mac,
        **({"mtu": str(vif.mtu)} if vif.mtu != _DEFAULT_MTU else {}),
        **({"rate": rate(vif.rate)} if vif.rate is not UNSET else {}),
        "bridge": bridge,
        "handle": str(vif.position),
        **({"vifname": _name(vif.vifname)} if vif.vifname is not UNSET else {}),
        **({"ip": vif.ip} if vif.ip is not UNSET else {}),
        "type": "vif_ioemu" if hvm else "vif",
        "hotplug-status": "",
    }
    note = {
        "id": vif.id.dev,
        "bridge": bridge,
        "device": device,
        "carrier": str(int(vif.carrier)),
        "locking": "disabled" if isinstance(vif.locking_mode, Disabled) else "unlocked",
        "mtu": str(vif.mtu),
        **({"script": script} if script else {}),
        **{f"extra/{key}": value for key, value in vif.extra_private_keys.items()},
    }
    return Nodes(front, back, note, read_only={"mtu": str(vif.mtu)})


def carrier(vif: Vif) -> bool:
    """Whether the virtual cable is in, and leads anywhere."""
    return vif.carrier and not isinstance(vif.locking_mode, Disabled)


def rate(limit: Rate) -> str:
    """Bytes per time slice, and the slice in microseconds. Raises `BadRequest`."""
    size = limit.kbytes_per_s * 1024 * limit.timeslice_us // 1_000_000
    if not 0 < size <= _LIMIT:
        raise BadRequest(
            "vif.rate", f"{size} bytes in {limit.timeslice_us} µs; choose a time slice that makes it 1 to {_LIMIT}"
        )
    return f"{size},{limit.timeslice_us}"


def settings(
    top: str, domid: int, mac: str, ipv4: Ipv4Configuration | None, ipv6: Ipv6Configuration | None
) -> list[Change]:
    """What the guest's agent reads of its addresses, below `<domain>/xenserver/device/vif/<devid>`."""
    folder, owner = f"{top}/static-ip-setting", (f"n{domid}",)
    values: dict[str, str] = {"mac": mac, "error-code": "", "error-msg": ""}
    for configuration, suffix in ((ipv4, ""), (ipv6, "6")):
        if configuration is None:
            continue
        static = configuration if isinstance(configuration, Static4 | Static6) else None
        values[f"enabled{suffix}"] = str(int(static is not None))
        values[f"address{suffix}"] = static.addresses[0] if static and static.addresses else ""
        values[f"gateway{suffix}"] = (static.gateway or "") if static else ""
    return [Mkdir(folder, owner), *(Write(f"{folder}/{key}", value, owner) for key, value in values.items())]


def unset(top: str) -> list[Change]:
    """None of that any more."""
    return [Remove(top)]


def _name(untrusted_name: str) -> str:
    if not _NAME.fullmatch(untrusted_name):
        raise BadRequest(
            "vif.vifname", f"{untrusted_name!r:.40}: an interface's name is 1 to 15 letters, digits, '_', '.', '-'"
        )
    return untrusted_name
