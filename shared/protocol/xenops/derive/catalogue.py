# SPDX-License-Identifier: Apache-2.0
"""Which service answers which interfaces on which queue, and every type and fault that they carry."""

import inspect
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import msgspec.inspect as shapes

from xenops.errors import Fault
from xenops.events import Event
from xenops.idl import Interface, Method, methods
from xenops.interfaces.console import CONSOLE
from xenops.interfaces.forkexec import FORKEXEC
from xenops.interfaces.xenops import INTERFACES, General


class Service(NamedTuple):
    """A service as its callers see it; `{host}` and `{instance}` in the name of its queue vary."""

    name: str
    does: str
    queue: str
    interfaces: tuple[type[Interface], ...]


SERVICES = (
    Service("xenopsd", "looks after the machines of one host", "xenops.{host}.{instance}", INTERFACES),
    Service("forkexecd", "runs programs for the other services", "forkexec.{host}", (General, FORKEXEC)),
    Service("vncproxy", "carries consoles to a loopback port", "console.{host}", (General, CONSOLE)),
)

Named = shapes.StructType | shapes.EnumType


def all_methods() -> Iterator[Method]:
    """Every declared method once, service by service."""
    seen: set[str] = set()
    for service in SERVICES:
        for interface in service.interfaces:
            for wire, method in methods(interface).items():
                if wire not in seen:
                    seen.add(wire)
                    yield method


def named_types() -> list[Named]:
    """Every record and enum that travels, module by module in the order of their definition."""
    found: dict[type, Named] = {}
    for method in all_methods():
        for field in shape_of_params(method).fields:
            _collect(field.type, found)
        _collect(shapes.type_info(method.result), found)
    _collect(shapes.type_info(Event), found)
    return sorted(found.values(), key=lambda named: _place(named.cls))


def shape_of_params(method: Method) -> shapes.StructType:
    """The params of a method as a shape."""
    shape = shapes.type_info(method.params)
    assert isinstance(shape, shapes.StructType)
    return shape


def families() -> list[tuple[type[Fault], list[type[Fault]]]]:
    """The families of faults, each with its members in the order of their definition; InternalError is its own."""
    return [(family, family.__subclasses__() or [family]) for family in Fault.__subclasses__()]


def sentence(documented: Any) -> str:
    """The docstring of a thing as one paragraph."""
    return " ".join(inspect.cleandoc(documented.__doc__ or "").split("\n\n")[0].split())


def _place(cls: type) -> tuple[str, int]:
    module = inspect.getmodule(cls)
    return cls.__module__, list(vars(module)).index(cls.__name__)


def _collect(shape: shapes.Type, found: dict[type, Named]) -> None:
    if isinstance(shape, shapes.EnumType):
        found.setdefault(shape.cls, shape)
    elif isinstance(shape, shapes.StructType):
        if shape.cls not in found:
            found[shape.cls] = shape
            _collect_all((field.type for field in shape.fields), found)
    elif isinstance(shape, shapes.UnionType):
        _collect_all(shape.types, found)
    elif isinstance(shape, shapes.Metadata):
        _collect(shape.type, found)
    elif isinstance(shape, shapes.ListType):
        _collect(shape.item_type, found)
    elif isinstance(shape, shapes.DictType):
        _collect(shape.value_type, found)


def _collect_all(several: Iterable[shapes.Type], found: dict[type, Named]) -> None:
    for shape in several:
        _collect(shape, found)
