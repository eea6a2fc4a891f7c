# SPDX-License-Identifier: Apache-2.0
"""Translates metadata that the original xenopsd exported (JSON) into ours. Pure.

There, a variant without argument is a string and one with arguments an array that begins with its tag; ids, rates and
scheduler priorities are arrays; a disk's place may be an array of bus, disk and partition. Here they are maps, and the
types that we convert to say which is which. What ours has no place for is left out.
"""

import types as python_types
from typing import Any, Union, get_args, get_origin

import msgspec

from xenops.types.metadata import Metadata
from xenops.types.vbd import Qos

_LEVELS = {"Highest": 0, "High": 2, "Normal": 4, "Low": 6, "Lowest": 7}
_LETTERS = {"Xen": "xvd", "Scsi": "sd", "Floppy": "fd", "Ide": "hd"}


def is_original(untrusted: Any) -> bool:
    """Whether this was exported by the original: there a machine's type is an array."""
    vm = untrusted.get("vm") if isinstance(untrusted, dict) else None
    return isinstance(vm, dict) and isinstance(vm.get("ty"), list)


def from_original(untrusted: dict[str, Any]) -> Metadata:
    """Our metadata; raises `msgspec.ValidationError` with the path of what does not fit."""
    known = {key: value for key, value in untrusted.items() if key != "domains"}  # the original backend's own state
    return msgspec.convert(_translate(known, Metadata), Metadata)


def _translate(value: Any, wanted: Any) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if hasattr(wanted, "__metadata__"):
        return _translate(value, wanted.__origin__)
    if wanted is Qos:
        return _qos(value)
    if origin in (Union, python_types.UnionType):
        return _variant(
            value, [a for a in arguments if isinstance(a, type) and issubclass(a, msgspec.Struct)], arguments
        )
    if origin is list and isinstance(value, list):
        return [_translate(item, arguments[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return value
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct):
        return _record(value, wanted)
    return value


def _variant(value: Any, structs: list[type[msgspec.Struct]], arguments: tuple[Any, ...]) -> Any:
    tagged = {s.__struct_config__.tag: s for s in structs if s.__struct_config__.tag is not None}
    if not tagged:  # an optional value of one type
        if str in arguments and isinstance(value, list):
            return _position(value)
        return _translate(value, structs[0]) if structs else value
    tag, *rest = value if isinstance(value, list) and value else [value]
    if not isinstance(tag, str) or tag not in tagged:
        return {"type": tag}  # refused with the path by the conversion that follows
    struct = tagged[tag]
    body = (
        rest[0]
        if len(rest) == 1 and isinstance(rest[0], dict) and len(_fields(struct)) != 1
        else _by_position(rest, struct)
    )
    return {"type": tag, **_record(body, struct)}


def _record(value: Any, struct: type[msgspec.Struct]) -> Any:
    if isinstance(value, list):  # ids, rates, priorities
        value = _by_position(value, struct)
    if not isinstance(value, dict):
        return value
    fields = {f.encode_name: f.type for f in _fields(struct)}
    return {key: _translate(item, fields[key]) for key, item in value.items() if key in fields and item is not None}


def _by_position(values: list[Any], struct: type[msgspec.Struct]) -> dict[str, Any]:
    return {f.encode_name: item for f, item in zip(_fields(struct), values, strict=False) if item is not None}


def _fields(struct: type[msgspec.Struct]) -> tuple[msgspec.structs.FieldInfo, ...]:
    return msgspec.structs.fields(struct)


def _qos(value: Any) -> Any:
    """`["Ionice", ["BestEffort", "Normal"]]`, where the class may be `["Other", n]`."""
    if not (isinstance(value, list) and len(value) == 2 and value[0] == "Ionice"):
        return value
    kind, *level = value[1] if isinstance(value[1], list) else [value[1]]
    if not level:
        return {"ionice": kind}
    named = level[0]
    if isinstance(named, list) and len(named) == 2:
        named = named[1]
    return {"ionice": kind, "level": _LEVELS.get(named, named) if isinstance(named, str) else named}


def _position(value: list[Any]) -> Any:
    """`["Ide", 2, 1]` or `["Ide", [2, 1]]` as `hdc1`."""
    flat = [value[0], *value[1]] if len(value) == 2 and isinstance(value[1], list) else value
    if (
        len(flat) != 3
        or str(flat[0]) not in _LETTERS
        or not all(isinstance(n, int) and 0 <= n < 1 << 20 for n in flat[1:])
    ):
        return value
    letters, disk = "", flat[1] + 1
    while disk:
        disk, letter = divmod(disk - 1, 26)
        letters = chr(ord("a") + letter) + letters
    return f"{_LETTERS[flat[0]]}{letters}{flat[2] or ''}"
