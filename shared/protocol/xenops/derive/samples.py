# SPDX-License-Identifier: Apache-2.0
"""A small valid value of each type, for the example requests of the manual.

Only what a caller must say is said: fields that have a default are left out. A test decodes every sample.
"""

from typing import Any

import msgspec.inspect as shapes

from xenops.idl import Method
from xenops.types.ids import DeviceName, TaskId, VmId
from xenops.types.update import Token

_BY_TYPE: list[tuple[shapes.Type, Any]] = [
    (shapes.type_info(VmId), "myfirstvm"),
    (shapes.type_info(DeviceName), "disk0"),
    (shapes.type_info(TaskId), "6f1c0a-17"),
    (shapes.type_info(Token), "6f1c0a:42"),
]
_BY_NAME: dict[str, Any] = {
    "argv": ["/bin/echo", "hello"],
    "cmd": "set-cancel-trigger",
    "delay": 30,
    "disk": {"type": "Local", "path": "/var/lib/xenopsd/myfirstvm.image"},
    "hostbus": "1",
    "hostport": "2",
    "keys": "q",
    "max": 512 << 20,
    "memory_dynamic_max": 512 << 20,
    "memory_dynamic_min": 256 << 20,
    "memory_static_max": 512 << 20,
    "metadata": {"vm": {"id": "myfirstvm", "ty": {"type": "HVM"}}},
    "min": 256 << 20,
    "name": "web server",
    "path": "/dev/loop0",
    "script": "echo hello",
    "xsdata": {"vm-data/owner": "alice"},
}


def request(method: Method) -> dict[str, Any]:
    """The params of an example request."""
    return _fields(shapes.type_info(method.params))


def value(shape: shapes.Type, name: str = "") -> Any:
    """A valid value of this shape for a field of this name."""
    for known, sample in _BY_TYPE:
        if shape == known:
            return sample
    if name in _BY_NAME:
        return _BY_NAME[name]
    if isinstance(shape, shapes.Metadata):
        return value(shape.type, name)
    return _of_shape(shape, name)


def _of_shape(shape: shapes.Type, name: str) -> Any:
    match shape:
        case shapes.StructType():
            return _fields(shape)
        case shapes.EnumType(cls=cls):
            return next(iter(cls)).value
        case shapes.UnionType(types=types):
            return value(types[0], name)
        case shapes.ListType(item_type=item):
            return [value(item, name)]
        case shapes.DictType():
            return {}
        case shapes.BoolType():
            return True
        case shapes.IntType(ge=least):
            return max(2, least or 0)
        case shapes.FloatType():
            return 2.5
        case shapes.StrType():
            return name
    raise TypeError(f"{type(shape).__name__} has no sample for the manual yet")


def _fields(shape: shapes.Type) -> dict[str, Any]:
    assert isinstance(shape, shapes.StructType)
    tagged = {shape.tag_field: shape.tag} if shape.tag_field else {}
    return {**tagged, **{f.encode_name: value(f.type, f.name) for f in shape.fields if f.required}}
