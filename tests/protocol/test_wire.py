# SPDX-License-Identifier: Apache-2.0
"""The envelopes: what goes in comes out, and bytes of any kind end in a value or in a fault that names the field."""

import json
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from xenops import wire
from xenops.bus.port import JSON, MSGPACK
from xenops.errors import BadPowerState, BadRequest, InternalError, UnknownMethod
from xenops.events import Change, Event, Kind, encode
from xenops.idl import methods
from xenops.interfaces.xenops import VM
from xenops.types.record import UNSET
from xenops.types.vm import Vm, VmStat

START = methods(VM)["VM.start"]
ADD = methods(VM)["VM.add"]
TEXT = st.text(max_size=20)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 53), 1 << 53) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


def fault_of(decode: Callable[[], Any]) -> BadRequest | None:
    """The one fault that ill-formed bytes may end in; anything else that is raised fails the test."""
    try:
        decode()
    except BadRequest as fault:
        return fault
    except InternalError:  # a reply that holds a fault of which nothing is known
        return None
    return None


@given(id=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,20}", fullmatch=True), force=st.booleans(), paused=st.booleans())
def test_a_call_round_trips(id: str, force: bool, paused: bool) -> None:
    params = START.params(id=id, force=force, paused=paused)
    name, raw, request_id = wire.decode_call(wire.encode_call("VM.start", params), MSGPACK)
    assert (name, request_id) == ("VM.start", None)
    assert wire.decode_params(raw, START.params, MSGPACK) == params

    text = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "VM.start", "params": msgspec.to_builtins(params)})
    name, raw, request_id = wire.decode_call(text.encode(), JSON)
    assert (name, request_id) == ("VM.start", 1)
    assert wire.decode_params(raw, START.params, JSON) == params


@given(PLAIN)
def test_a_result_round_trips(result: Any) -> None:
    assert wire.decode_result(wire.encode_result(result), Any) == result
    answered = json.loads(wire.as_json(wire.encode_result(result), "an id"))
    assert answered == {"jsonrpc": "2.0", "id": "an id", "result": result}


@given(st.binary(max_size=200), st.sampled_from([MSGPACK, JSON, "", "text/plain"]))
def test_no_bytes_crash_the_decoder_of_calls(untrusted: bytes, content_type: str) -> None:
    def decode() -> None:
        _, raw, _ = wire.decode_call(untrusted, content_type)
        wire.decode_params(raw, ADD.params, content_type)

    fault = fault_of(decode)
    assert fault is None or fault.path.startswith(("body", "request", "params", "content_type"))


@given(PLAIN, st.sampled_from([MSGPACK, JSON]), st.booleans())
def test_no_params_crash_their_decoder(untrusted: Any, content_type: str, forgiving: bool) -> None:
    codec = msgspec.json if content_type == JSON else msgspec.msgpack
    raw = msgspec.Raw(codec.encode(untrusted))
    fault = fault_of(lambda: wire.decode_params(raw, ADD.params, content_type, forgiving=forgiving))
    assert fault is None or fault.path.startswith("params")


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_decoders_of_replies_and_events(untrusted: bytes) -> None:
    fault_of(lambda: wire.decode_result(untrusted, VmStat))
    fault_of(lambda: wire.decode_event(untrusted))


@pytest.mark.parametrize("content_type", [MSGPACK, JSON])
@pytest.mark.parametrize(
    ("params", "path", "reason"),
    [
        ({}, "params.id", "is missing"),
        ({"id": "a", "fast": True}, "params.fast", "no such field"),
        ({"id": 7}, "params.id", "Expected `str`, got `int`"),
        ({"id": "../x"}, "params.id", "Expected `str` matching regex"),
        ([], "params", "Expected `object`, got `array`"),
    ],
)
def test_what_is_wrong_is_said_with_its_path(content_type: str, params: Any, path: str, reason: str) -> None:
    raw = msgspec.Raw((msgspec.json if content_type == JSON else msgspec.msgpack).encode(params))
    with pytest.raises(BadRequest) as caught:
        wire.decode_params(raw, START.params, content_type)
    assert caught.value.path == path
    assert caught.value.reason.startswith(reason)


@pytest.mark.parametrize(
    ("untrusted", "content_type", "path"),
    [
        (b"", MSGPACK, "body"),
        (b"\x80", MSGPACK, "request.method"),
        (b"\x82\xa6method\xa1x\xa1y\x01", MSGPACK, "request.y"),
        (b"\x81\x01\x02", MSGPACK, "request"),
        (b" [1]", JSON, "request"),
        (b'{"method": "x", "jsonrpc": "1.0"}', JSON, "request.jsonrpc"),
        (b'{"method": "\xff"}', JSON, "body"),
        (b"[" * 100_000, JSON, "request"),
        (b"\x91" * 100_000, MSGPACK, "request"),
        (b'{"method":"x","params":' + b"[" * 100_000, JSON, "body"),
        (b"\x80", "application/x-msgpack", "content_type"),
    ],
)
def test_what_is_no_request_is_refused_with_its_path(untrusted: bytes, content_type: str, path: str) -> None:
    with pytest.raises(BadRequest) as caught:
        wire.decode_call(untrusted, content_type)
    assert caught.value.path == path


def test_deep_nesting_is_refused_when_a_newer_caller_is_forgiven() -> None:
    with pytest.raises(BadRequest):
        wire.decode_params(msgspec.Raw(b"\x91" * 5000 + b"\xc0"), START.params, MSGPACK, forgiving=True)


def test_a_newer_caller_is_forgiven_fields_we_do_not_know_at_any_depth() -> None:
    machine = {"id": "a", "name": "a", "ty": {"type": "HVM", "later": 1}, "later": {"x": 1}}
    raw = msgspec.Raw(msgspec.msgpack.encode({"vm": machine, "later": 1}))
    params: Any = wire.decode_params(raw, ADD.params, MSGPACK, forgiving=True)
    assert isinstance(params.vm, Vm)
    with pytest.raises(BadRequest):
        wire.decode_params(raw, ADD.params, MSGPACK)


class Nested(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    inside: "list[Nested] | None" = None
    by_name: "dict[str, Nested]" = {}
    pair: "tuple[int, Nested] | None" = None
    short: Annotated[str, Meta(max_length=3)] = ""


@given(st.recursive(
    st.fixed_dictionaries({"name": TEXT}, optional={"later": st.integers()}),
    lambda inner: st.fixed_dictionaries(
        {"name": TEXT},
        optional={
            "inside": st.lists(inner, max_size=3) | st.none(),
            "by_name": st.dictionaries(TEXT, inner, max_size=3),
            "pair": st.tuples(st.integers(0, 9), inner).map(list),
            "later": inner,
        },
    ),
    max_leaves=8,
))  # fmt: skip
def test_lenient_leaves_out_exactly_what_is_not_declared(value: dict[str, Any]) -> None:
    def declared(item: Any) -> Any:
        if isinstance(item, dict):
            return {k: declared(v) for k, v in item.items() if k != "later" or "name" not in item}
        return [declared(inner) for inner in item] if isinstance(item, list) else item

    def without_later(item: dict[str, Any]) -> dict[str, Any]:
        kept = {k: v for k, v in item.items() if k != "later"}
        if kept.get("inside"):
            kept["inside"] = [without_later(inner) for inner in kept["inside"]]
        if "by_name" in kept:
            kept["by_name"] = {key: without_later(inner) for key, inner in kept["by_name"].items()}
        if kept.get("pair"):
            kept["pair"] = [kept["pair"][0], without_later(kept["pair"][1])]
        return kept

    assert wire.lenient(value, Nested) == msgspec.convert(without_later(value), Nested)


def test_a_fault_travels_in_both_encodings() -> None:
    fault = BadPowerState("Running", "Halted")
    with pytest.raises(BadPowerState) as caught:
        wire.decode_result(wire.encode_fault(fault), None)
    assert caught.value == fault
    error = json.loads(wire.as_json(wire.encode_fault(fault), 3))
    assert error["id"] == 3
    assert error["error"]["code"] == -32002
    assert error["error"]["data"] == {"name": "BadPowerState", "fields": {"actual": "Running", "expected": "Halted"}}
    assert json.loads(wire.as_json(wire.encode_fault(fault), UNSET))["id"] is None


def test_json_rpc_codes_are_those_of_the_standard() -> None:
    assert wire.json_code(UnknownMethod("x")) == -32601
    assert wire.json_code(BadRequest("params", "x")) == -32602
    assert wire.json_code(InternalError("ref")) == -32603


def test_an_event_round_trips_and_newer_fields_are_ignored() -> None:
    event = Event(
        epoch="e", seq=1, host="h", instance="i", kind=Kind.VM, id="a", change=Change.ADDED, at=1, power_state="Running"
    )
    assert wire.decode_event(encode(event)) == event
    newer = {**msgspec.msgpack.decode(encode(event)), "later": [1]}
    assert wire.decode_event(msgspec.msgpack.encode(newer)) == event
