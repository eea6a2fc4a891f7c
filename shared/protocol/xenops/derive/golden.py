# SPDX-License-Identifier: Apache-2.0
"""The whole API on one page of JSON, kept in tests/golden: a change of the API that is not in the diff is refused."""

from typing import Any

import msgspec
import msgspec.inspect as shapes

from xenops import wire
from xenops.bus.port import DEAD_QUEUE, EVENTS_EXCHANGE
from xenops.derive.catalogue import SERVICES, Named, all_methods, families, named_types, shape_of_params
from xenops.derive.spelling import default, spell
from xenops.errors import Fault
from xenops.idl import Method, methods


def document() -> dict[str, Any]:
    """Queues, methods, types and faults, each spelled as the manual spells them."""
    return {
        "version": wire.VERSION,
        "exchange": EVENTS_EXCHANGE,
        "dead_letters": DEAD_QUEUE,
        "services": {
            service.name: {
                "queue": service.queue,
                "methods": [wire for interface in service.interfaces for wire in methods(interface)],
            }
            for service in SERVICES
        },
        "methods": {method.wire: _method(method) for method in all_methods()},
        "types": {named.cls.__name__: _type(named) for named in named_types()},
        "faults": {cls.__name__: _fault(cls) for _, members in families() for cls in members},
    }


def text() -> str:
    """The page."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=2).decode() + "\n"


def _method(method: Method) -> dict[str, Any]:
    found: dict[str, Any] = {
        "params": _fields(shape_of_params(method).fields),
        "result": spell(shapes.type_info(method.result)),
        "raises": [cls.__name__ for cls in method.raises],
    }
    return {**found, **{trait: True for trait in ("reads", "waits") if getattr(method, trait)}}


def _type(named: Named) -> Any:
    if isinstance(named, shapes.EnumType):
        return [member.value for member in named.cls]
    tagged = {named.tag_field: named.tag} if named.tag_field else {}
    return {**tagged, **_fields(named.fields)}


def _fields(fields: tuple[shapes.Field, ...]) -> dict[str, str]:
    return {field.encode_name: f"{spell(field.type)} = {default(field)}" for field in fields}


def _fault(cls: type[Fault]) -> dict[str, Any]:
    shape = shapes.type_info(cls)
    assert isinstance(shape, shapes.DataclassType)
    return {"code": wire.json_code(cls.__new__(cls)), "fields": {f.encode_name: spell(f.type) for f in shape.fields}}
