# SPDX-License-Identifier: Apache-2.0
"""The entries of `pci`: `[DDDD:]BB:DD.F[@vslot],key=value,...`."""

from collections.abc import Iterable

from xenops.types.ids import DeviceId
from xenops.types.pci import Pci
from xenops.types.pci_address import PciAddress
from xenops.types.record import UNSET, Maybe
from xenops.xlcfg.document import Document
from xenops.xlcfg.keys import nearest
from xenops.xlcfg.parser import Text

_KEYS = ("bdf", "vslot", "permissive", "msitranslate", "seize", "power_mgmt", "rdm_policy", "name")
_FLAGS = {"0": False, "1": True}


def read(doc: Document, text: Text, vm: str, position: int) -> Pci:
    """One passed-through function."""
    pairs = _pairs(doc, text)
    if "name" in pairs:
        doc.fail(text, "devices cannot be asked for by name yet; write the address")
    bdf, slot = pairs.pop("bdf", ""), pairs.pop("vslot", "")
    bdf, at, positional_slot = bdf.partition("@")
    if at or slot:
        doc.warn("pci", f"the slot {positional_slot or slot} in the guest cannot be chosen yet; it has no effect", text)
    if bdf.endswith(".*"):
        doc.fail(text, "all functions at once are not supported; give each function an entry of its own")
    for key in ("permissive", "seize"):
        if _flag(doc, text, pairs, key) is True:
            doc.warn("pci", f"{key} is not supported yet; it has no effect", text)
    if "rdm_policy" in pairs:
        doc.warn("pci", "rdm_policy is not supported yet; it has no effect", text)
    try:
        address = PciAddress.parse(bdf)
    except ValueError as error:
        doc.fail(text, str(error))
    return Pci(
        id=DeviceId(vm=vm, dev=str(position)),
        position=position,
        address=address,
        msitranslate=_flag(doc, text, pairs, "msitranslate"),
        power_mgmt=_flag(doc, text, pairs, "power_mgmt"),
    )


def _pairs(doc: Document, text: Text) -> dict[str, str]:
    pairs: dict[str, str] = {}
    offset = 0
    for index, part in enumerate(text.value.split(",")):
        key, equals, value = part.strip().partition("=")
        if not equals and index == 0:
            key, value = "bdf", key
        elif not equals and key:
            doc.fail(text.at(offset), f"{key!r:.40} is not key=value")
        if key and key not in _KEYS:
            doc.fail(text.at(offset), f"pci knows no {key!r:.40}{nearest(key, _KEYS)}")
        if key in pairs:
            doc.fail(text.at(offset), f"{key} is given twice")
        if key:
            pairs[key] = value
        offset += len(part) + 1
    return pairs


def _flag(doc: Document, text: Text, pairs: dict[str, str], key: str) -> Maybe[bool]:
    value = pairs.get(key, "")
    if value not in ("", *_FLAGS):
        doc.fail(text, f"{key} must be 0 or 1, not {value!r:.40}")
    return _FLAGS.get(value, UNSET)


def write(pcis: Iterable[Pci]) -> list[str]:
    """The entries that mean these devices."""
    return [_entry(pci) for pci in pcis]


def _entry(pci: Pci) -> str:
    text = str(pci.address)
    for key, flag in (("msitranslate", pci.msitranslate), ("power_mgmt", pci.power_mgmt)):
        if isinstance(flag, bool):
            text += f",{key}={flag:d}"
    return text
