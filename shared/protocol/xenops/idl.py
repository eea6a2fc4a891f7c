# SPDX-License-Identifier: Apache-2.0
"""How an API is declared: an `Interface` is a class whose `@rpc` coroutines have types and a docstring.

Everything else reads that declaration: client stubs, dispatchers, the command line's help, the manual, the schema.
"""

import inspect
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, get_type_hints

import msgspec

from xenops.errors import Fault

F = TypeVar("F", bound=Callable[..., Any])


class Traits(NamedTuple):
    """What a declaration says of a method beside its signature."""

    raises: tuple[type[Fault], ...]
    reads: bool  # changes nothing: may be repeated at will, needs no memory of its outcome
    waits: bool  # a long poll: the broker's delivery is acknowledged before it waits


class Method(NamedTuple):
    """One method, as everything that is derived from the interface sees it."""

    wire: str  # "VM.start"
    attribute: str  # "start"
    doc: str
    params: type[msgspec.Struct]  # built from the signature; unknown fields are refused
    result: Any
    raises: tuple[type[Fault], ...]
    reads: bool
    waits: bool


def rpc(*, raises: tuple[type[Fault], ...] = (), reads: bool = False, waits: bool = False) -> Callable[[F], F]:
    """Mark a coroutine of an interface as callable over the bus; `raises` are the faults of its own."""

    def mark(function: F) -> F:
        function.__rpc__ = Traits(raises, reads or waits, waits)  # type: ignore[attr-defined]
        return function

    return mark


class Interface(Protocol):
    """The parent of every declaration; `name` is the namespace on the wire, empty for the general calls."""

    name: ClassVar[str]


def methods(interface: type[Interface]) -> dict[str, Method]:
    """The declared methods by wire name, in the order of their declaration."""
    found = (
        _method(interface.name, attribute, value)
        for attribute, value in vars(interface).items()
        if hasattr(value, "__rpc__")
    )
    return {method.wire: method for method in found}


def method(interface: type[Interface], attribute: str) -> Method:
    """One declared method by the name of its coroutine; raises AttributeError if there is none."""
    declared = vars(interface).get(attribute)
    if declared is None or not hasattr(declared, "__rpc__"):
        raise AttributeError(f"{interface.__name__} has no method {attribute!r}")
    return _method(interface.name, attribute, declared)


def _method(namespace: str, attribute: str, function: Callable[..., Any]) -> Method:
    hints = get_type_hints(function, include_extras=True)
    result = hints.pop("return")
    wire = f"{namespace}.{attribute}" if namespace else attribute
    fields: list[Any] = []
    for parameter in inspect.signature(function).parameters.values():
        if parameter.name == "self":
            continue
        if parameter.default is inspect.Parameter.empty:
            fields.append((parameter.name, hints[parameter.name]))
        else:
            fields.append((parameter.name, hints[parameter.name], parameter.default))
    struct = msgspec.defstruct(
        f"{wire}.params", fields, kw_only=True, frozen=True, forbid_unknown_fields=True, omit_defaults=True
    )
    traits: Traits = function.__rpc__  # type: ignore[attr-defined]
    doc = inspect.cleandoc(function.__doc__ or "")
    return Method(wire, attribute, doc, struct, result, *traits)
