# SPDX-License-Identifier: Apache-2.0
"""How a type, its bounds and its default are spelled for a person.

A shape that has no spelling yet is an error, not a blank: the manual must not leave anything out.
"""

from collections.abc import Callable
from typing import Any

import msgspec
import msgspec.inspect as shapes

Link = Callable[[type], str]  # how a named type is mentioned

_PLAIN: dict[type[shapes.Type], str] = {
    shapes.AnyType: "anything",
    shapes.NoneType: "null",
    shapes.BoolType: "bool",
    shapes.BytesType: "bytes",
}


def plain(cls: type) -> str:
    """Mention a type by its name alone."""
    return cls.__name__


def spell(shape: shapes.Type, link: Link = plain) -> str:
    """`string (1 to 64 characters; the id of a task)`, `list of Vbd`, `Local or Vdi`."""
    notes, bare = _unwrapped(shape)
    notes = [*_bounds(bare), *notes]
    text = _bare(bare, link)
    return f"{text} ({'; '.join(notes)})" if notes else text


def default(field: shapes.Field) -> str:
    """`required`, `absent`, or the default as JSON."""
    if field.required:
        return "required"
    value = default_value(field)
    return "absent" if value is msgspec.UNSET else msgspec.json.encode(value).decode()


def default_value(field: shapes.Field) -> Any:
    """What a field that is left out stands for, as it would travel; `UNSET` for one that may be absent."""
    if field.default_factory is not msgspec.NODEFAULT:
        return msgspec.to_builtins(field.default_factory())
    if field.default is msgspec.NODEFAULT:
        return msgspec.UNSET
    return msgspec.to_builtins(field.default)


def _unwrapped(shape: shapes.Type) -> tuple[list[str], shapes.Type]:
    notes: list[str] = []
    while isinstance(shape, shapes.Metadata):
        description = (shape.extra_json_schema or {}).get("description")
        if description:
            notes.append(description)
        shape = shape.type
    return notes, shape


def _bare(shape: shapes.Type, link: Link) -> str:
    match shape:
        case shapes.StructType(cls=cls) | shapes.EnumType(cls=cls):
            return link(cls)
        case shapes.UnionType(types=types):
            return " or ".join(spell(each, link) for each in types)
        case shapes.ListType(item_type=item):
            return f"list of {spell(item, link)}"
        case shapes.DictType(value_type=value):
            return f"map of string to {spell(value, link)}"
        case shapes.IntType():
            return "int"
        case shapes.FloatType():
            return "float"
        case shapes.StrType():
            return "string"
    if type(shape) in _PLAIN:
        return _PLAIN[type(shape)]
    raise TypeError(f"{type(shape).__name__} has no spelling in the manual yet")


def _bounds(shape: shapes.Type) -> list[str]:
    match shape:
        case shapes.IntType() | shapes.FloatType():
            return _interval(shape)
        case shapes.StrType(min_length=least, max_length=most):
            return _length(least, most, "character")
        case shapes.ListType(min_length=least, max_length=most) if least or most:
            return _length(least, most, "item")
    return []


def _interval(shape: shapes.IntType | shapes.FloatType) -> list[str]:
    if shape.ge is not None and shape.le is not None:
        return [f"{_number(shape.ge)} to {_number(shape.le)}"]
    bounds = (("at least", shape.ge), ("above", shape.gt), ("at most", shape.le), ("below", shape.lt))
    named = [f"{word} {_number(bound)}" for word, bound in bounds if bound is not None]
    return [" and ".join(named)] if named else []


def _length(least: int | None, most: int | None, unit: str) -> list[str]:
    if least and most:
        return [f"{least} to {most} {unit}s"]
    if most:
        return [f"at most {most} {unit}s"]
    return [f"at least {least} {unit}{'' if least == 1 else 's'}"] if least else []


def _number(bound: float) -> str:
    return f"{bound:g}" if bound < 1e6 else str(int(bound))
