# SPDX-License-Identifier: Apache-2.0
"""The entries of `vif`: `key=value` pairs parted by commas; the empty string is a NIC with every default."""

import re
from collections.abc import Iterator, Sequence
from typing import NoReturn

from xenops.types.ids import DeviceId
from xenops.types.network import Bridge, Network, Remote, Sriov
from xenops.types.record import UNSET, Maybe
from xenops.types.vif import Rate, Vif
from xenops.xlcfg.document import Document
from xenops.xlcfg.keys import nearest
from xenops.xlcfg.parser import Text

_KEYS = ("mac", "bridge", "script", "ip", "vifname", "model", "type", "rate", "backend", "mtu", "devid", "vlan")
_NOT_SUPPORTED = ("gatewaydev", "netdev", "forwarddev", "accel", "trusted", "untrusted")
_MAC = re.compile(r"[0-9a-fA-F]{1,2}(:[0-9a-fA-F]{1,2}){5}|random|")
_RATE = re.compile(r"([0-9]{1,12})([GMK]?)([Bb])/s(?:@([0-9]{1,10})([mu]?)(s?))?")
_VM = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_SCALE = {"": 1, "K": 10**3, "M": 10**6, "G": 10**9}
_DOM0 = ("", "0", "Domain-0", "dom0")


def read(doc: Document, entries: list[Text], vm: str, *, hvm: bool) -> list[Vif]:
    """The NICs in order; each takes the position it asks for, or else the first that nobody asks for."""
    specs = [_Spec(doc, text) for text in entries]
    asked = [spec.number("devid", 0, 255) for spec in specs]
    for spec, devid in zip(specs, asked, strict=True):
        if devid is not None and asked.count(devid) > 1:
            doc.fail(spec.text, f"devid={devid} is given to more than one interface")
    free = (n for n in range(len(specs) + 256) if n not in asked)
    positions = [next(free) if devid is None else devid for devid in asked]
    return [spec.vif(vm, position, hvm=hvm) for spec, position in zip(specs, positions, strict=True)]


class _Spec:
    """One entry taken apart."""

    def __init__(self, doc: Document, text: Text) -> None:
        self.doc, self.text = doc, text
        self._values: dict[str, str] = {}
        self._offsets: dict[str, int] = {}
        offset = 0
        for part in text.value.split(","):
            self._take(part.strip(), offset + len(part) - len(part.lstrip()))
            offset += len(part) + 1

    def _take(self, part: str, offset: int) -> None:
        key, equals, value = part.partition("=")
        if not part:
            return
        if key in _NOT_SUPPORTED or key.startswith("colo"):
            self.doc.warn("vif", f"{key} is not supported yet; it has no effect", self.text.at(offset))
        elif not equals:
            self.doc.fail(self.text.at(offset), f"{part!r:.40} is not key=value")
        elif key not in _KEYS:
            reason = f"there is no {key!r:.40} in vif; it has no effect{nearest(key, _KEYS)}"
            self.doc.warn("vif", reason, self.text.at(offset))
        else:
            self._values[key] = value
            self._offsets[key] = offset + len(key) + 1

    def get(self, key: str) -> Maybe[str]:
        """The value; absent if it is not given or empty."""
        return self._values.get(key) or UNSET

    def number(self, key: str, low: int, high: int) -> int | None:
        value = self._values.get(key, "")
        if not value:
            return None
        if not re.fullmatch(r"[0-9]{1,9}", value) or not low <= int(value) <= high:
            self.fail(key, f"{key} must be a number from {low} to {high}, not {value!r:.40}")
        return int(value)

    def fail(self, key: str, reason: str) -> NoReturn:
        self.doc.fail(self.text.at(self._offsets[key]), reason)

    def vif(self, vm: str, position: int, *, hvm: bool) -> Vif:
        if position > 255:
            self.doc.fail(self.text, "a machine has at most 256 interfaces")
        mac = self._values.get("mac", "")
        if not _MAC.fullmatch(mac):
            self.fail("mac", f"{mac!r:.40} is not a MAC address; write six hexadecimal pairs with colons between")
        kind = self._values.get("type", "ioemu")
        if kind not in ("ioemu", "vif", ""):
            self.fail("type", f"type must be ioemu or vif, not {kind!r:.40}")
        if kind == "vif" and hvm:
            self.doc.warn("vif", "type=vif is not supported yet; the guest sees an emulated NIC as well", self.text)
        vlan = self.number("vlan", 0, 4095)
        return Vif(
            id=DeviceId(vm=vm, dev=str(position)),
            position=position,
            mac=mac,
            mtu=self.number("mtu", 68, 65535) or 1500,
            rate=self._rate(),
            backend=self._backend(),
            model=self.get("model"),
            script=self.get("script"),
            vifname=self.get("vifname"),
            ip=self.get("ip"),
            vlan=UNSET if vlan is None else vlan,
        )

    def _backend(self) -> Network:
        bridge = self._values.get("bridge") or "xenbr0"
        backend = self._values.get("backend", "")
        if backend in _DOM0:
            return Bridge(bridge=bridge)
        if not _VM.fullmatch(backend):
            self.fail("backend", f"{backend!r:.40} is not the id of a driver domain")
        return Remote(vm=backend, bridge=bridge)

    def _rate(self) -> Maybe[Rate]:
        """`10Mb/s@20ms`: what goes out in each interval; without a unit the interval is in seconds, as in xl."""
        value = self._values.get("rate", "")
        if not value:
            return UNSET
        match = _RATE.fullmatch(value)
        if match is None:
            self.fail("rate", f"{value!r:.40} is not a rate; write for example 10Mb/s, 250KB/s or 1MB/s@20ms")
        bytes_per_s = int(match[1]) * _SCALE[match[2]] // (8 if match[3] == "b" else 1)
        unit = {"m": 1000, "u": 1}.get(match[5] or "", 1_000_000)
        timeslice_us = int(match[4]) * unit if match[4] else 50_000
        if not 0 < timeslice_us < 1 << 32 or bytes_per_s == 0:
            self.fail("rate", f"{value} is out of range")
        return Rate(kbytes_per_s=max(1, (bytes_per_s + 512) // 1024), timeslice_us=timeslice_us)


def write(vifs: Sequence[Vif]) -> list[str]:
    """The entries that mean these NICs; a second NIC in one place has none."""
    places = {vif.position: vif for vif in reversed(vifs)}
    return [",".join(_pairs(vif, index)) for index, vif in enumerate(v for v in vifs if places[v.position] is v)]


def _pairs(vif: Vif, index: int) -> Iterator[str]:
    values: list[tuple[str, Maybe[str | int]]] = [("mac", vif.mac or UNSET)]
    match vif.backend:
        case Bridge(bridge=bridge):
            values.append(("bridge", bridge))
        case Remote(vm=vm, bridge=bridge):
            values += [("bridge", bridge), ("backend", vm)]
        case Sriov():
            pass
    values += [("model", vif.model), ("script", vif.script), ("ip", vif.ip), ("vifname", vif.vifname)]
    if isinstance(vif.rate, Rate):
        rate = f"{vif.rate.kbytes_per_s * 1024}B/s"
        values.append(("rate", rate if vif.rate.timeslice_us == 50_000 else f"{rate}@{vif.rate.timeslice_us}us"))
    values.append(("mtu", UNSET if vif.mtu == 1500 else vif.mtu))
    values.append(("devid", UNSET if vif.position == index else vif.position))
    values.append(("vlan", vif.vlan))
    for key, value in values:
        # A comma or a blank at an end cannot be quoted within an entry.
        if value is not UNSET and "," not in str(value) and str(value) == str(value).strip():
            yield f"{key}={value}"
