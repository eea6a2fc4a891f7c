# SPDX-License-Identifier: Apache-2.0
"""A foreign client that gets every place of every method's params wrong, in both encodings.

Whatever is sent, a reply comes, it names the place, it is never our own fault, and the service goes on.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import msgspec.inspect as shapes
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.system.foreigner import JSON, MSGPACK, Foreigner, on_stack
from xenops.derive import samples
from xenops.idl import Method, methods
from xenops.interfaces.xenops import INTERFACES

METHODS = {name: m for i in INTERFACES for name, m in methods(i).items() if name != "DEBUG.shutdown"}
WINDOW = 100


def nested(depth: int) -> Any:
    found: Any = []
    for _ in range(depth):
        found = [found]
    return found


JUNK: list[Any] = [
    None,
    True,
    -1,
    1 << 63,
    (1 << 64) - 1,
    1 << 80,
    1e308,
    math.nan,
    math.inf,
    "",
    "\0",
    "x" * 70000,
    "../../etc",
    {},
    [None],
    {"type": "Nope"},
    {"nope": 1},
    b"\xff\x00",
    nested(900),
]


class Question(NamedTuple):
    method: str
    path: tuple[str | int, ...]
    params: Any


def whole(shape: shapes.Type, name: str = "") -> Any:
    """A valid value with every optional field."""
    if isinstance(shape, shapes.Metadata):
        known = next((sample for type, sample in samples._BY_TYPE if type == shape), None)
        return whole(shape.type, name) if known is None else known
    if isinstance(shape, shapes.StructType):
        tagged = {shape.tag_field: shape.tag} if shape.tag_field else {}
        return {**tagged, **{f.encode_name: whole(f.type, f.name) for f in shape.fields}}
    if isinstance(shape, shapes.UnionType):
        return whole(next(t for t in shape.types if not isinstance(t, shapes.NoneType)), name)
    if isinstance(shape, shapes.ListType):
        return [whole(shape.item_type, name)]
    if name in ("timeout", "delay", "seconds"):
        return 0.0
    if isinstance(shape, shapes.StrType) and name in ("mac", "position"):
        return {"mac": "random", "position": "xvda"}[name]
    return samples.value(shape, name)


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(item, (*path, key))


def put(value: Any, path: tuple[str | int, ...], junk: Any) -> Any:
    if not path:
        return junk
    copy = value.copy()
    copy[path[0]] = put(value[path[0]], path[1:], junk)
    return copy


def without(value: Any, path: tuple[str | int, ...]) -> Any:
    copy = value.copy()
    if len(path) == 1:
        del copy[path[0]]
    else:
        copy[path[0]] = without(value[path[0]], path[1:])
    return copy


def questions() -> Iterator[Question]:
    for name, method in METHODS.items():
        valid = whole(shapes.type_info(method.params))
        yield Question(name, ("nope",), {**valid, "nope": 1})
        for path in places(valid):
            if path:
                yield Question(name, path, without(valid, path))
            for junk in JUNK:
                yield Question(name, path, put(valid, path, junk))


def encoded(question: Question, content_type: str) -> bytes | None:
    """The request's bytes; None if the encoding has no such thing."""
    call = {"method": question.method, "params": question.params}
    try:
        if content_type == JSON:
            return json.dumps({"jsonrpc": "2.0", "id": 1, **call}).encode()
        return msgspec.msgpack.encode(call)
    except (TypeError, OverflowError):
        return None


def fault_of(untrusted: bytes, content_type: str) -> dict[str, Any] | None:
    if content_type == MSGPACK:
        found: dict[str, Any] | None = msgspec.msgpack.decode(untrusted).get("fault")
        return found
    error = json.loads(untrusted).get("error")
    return None if error is None else {**error["data"], "message": error["message"]}


def names_the_place(path: tuple[str | int, ...], told: str, why: str) -> bool:
    """Whether what the fault names is the place, what holds it, what it holds, or what it contradicts."""
    place = "params" + "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    if told.endswith("[...]"):  # a key of a map that may have any
        return place.startswith(told.removesuffix("[...]"))
    return told.startswith(place) or place.startswith(told) or f"above {path[-1]}," in why


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
def test_every_place_of_every_request_filled_with_junk(tmp_path: Path, content_type: str) -> None:
    sent = [(q, body) for q in questions() if (body := encoded(q, content_type)) is not None]
    assert len(sent) > 5000

    def attack(foreigner: Foreigner) -> None:
        for n, (_, body) in enumerate(sent):
            foreigner.send(body, content_type, correlation_id=str(n))
            foreigner.wait(n - WINDOW)
        foreigner.wait(len(sent))
        refused = 0
        for n, (question, _) in enumerate(sent):
            (reply,) = foreigner.replies[str(n)]
            fault = fault_of(reply, content_type)
            if fault is None:
                continue
            assert fault["name"] != "InternalError", (question.method, question.path, fault)
            assert len(fault["message"]) < 2000
            if fault["name"] == "BadRequest" and fault["fields"]["path"] != "body":
                refused += 1
                assert names_the_place(question.path, fault["fields"]["path"], fault["fields"]["reason"]), (
                    question[:2],
                    fault,
                )
        assert refused > len(sent) / 2

    on_stack(tmp_path, attack)


def test_an_unknown_field_is_named_by_every_method(tmp_path: Path) -> None:
    def attack(foreigner: Foreigner) -> None:
        for name, method in METHODS.items():
            params = {**samples.request(method), "nope": 1}
            _, fault = foreigner.ask(name, params)
            assert fault is not None, name
            assert fault["fields"] == {"path": "params.nope", "reason": "no such field"}, name
            for field in _required(method):
                _, fault = foreigner.ask(name, {k: v for k, v in samples.request(method).items() if k != field})
                assert fault is not None, name
                assert fault["fields"] == {"path": f"params.{field}", "reason": "is missing"}, name

    on_stack(tmp_path, attack)


def _required(method: Method) -> list[str]:
    return [f.encode_name for f in msgspec.structs.fields(method.params) if f.required]


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5) | st.integers(-(1 << 63), (1 << 64) - 1),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "vm", "type", "a"]), inner),
    max_leaves=8,
)


def test_anything_at_all(tmp_path: Path) -> None:
    def attack(foreigner: Foreigner) -> None:
        @given(st.lists(st.tuples(st.sampled_from(sorted(METHODS)), ANYTHING), min_size=5, max_size=20))
        @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
        def one(calls: list[tuple[str, Any]]) -> None:
            calls = [call for call in calls if not METHODS[call[0]].waits]
            foreigner.replies.clear()
            for n, (method, params) in enumerate(calls):
                foreigner.send(msgspec.msgpack.encode({"method": method, "params": params}), correlation_id=str(n))
            foreigner.wait(len(calls))
            for n, call in enumerate(calls):
                fault = fault_of(foreigner.replies[str(n)][0], MSGPACK)
                assert fault is None or fault["name"] != "InternalError", (call, fault)

        one()

    on_stack(tmp_path, attack)


@pytest.mark.parametrize("interface", INTERFACES)
def test_no_number_is_without_an_end(interface: Any) -> None:
    """What is too large for a reply must not get in: a task that cannot be told of breaks every list of tasks."""
    endless: list[str] = []

    def look(shape: Any, where: str) -> None:
        match shape:
            case shapes.Metadata():
                look(shape.type, where)
            case shapes.StructType():
                for field in shape.fields:
                    look(field.type, f"{where}.{field.name}")
            case shapes.UnionType():
                for type in shape.types:
                    look(type, where)
            case shapes.ListType():
                look(shape.item_type, where)
            case shapes.IntType() | shapes.FloatType():
                if shape.le is None and shape.lt is None:
                    endless.append(where)

    for name, method in methods(interface).items():
        look(shapes.type_info(method.params), name)
    assert endless == []
