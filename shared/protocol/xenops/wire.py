# SPDX-License-Identifier: Apache-2.0
"""The envelopes of a call and of a reply, and their MessagePack and JSON bytes.

MessagePack: `{"method", "params"}` answered by `{"result"}` or `{"fault": {"name", "fields", "message"}}`.
JSON: the same method and named params as a JSON-RPC 2.0 request. The contract is docs/api/wire.md.
"""

import re
import types as python_types
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import msgspec

from xenops import errors
from xenops.bus.port import JSON, MSGPACK
from xenops.errors import BadRequest, Fault
from xenops.events import Event
from xenops.types.record import UNSET, UnsetType

VERSION = "1.0"
T = TypeVar("T")


class Call(msgspec.Struct, forbid_unknown_fields=True):
    """A request in MessagePack; `params` are decoded once the method is known."""

    method: str
    params: msgspec.Raw = msgspec.Raw(b"\x80")


class JsonCall(msgspec.Struct, forbid_unknown_fields=True):
    """A request in JSON-RPC 2.0; without an `id` it is a notification and gets no reply."""

    method: str
    jsonrpc: Literal["2.0"] = "2.0"
    params: msgspec.Raw = msgspec.Raw(b"{}")
    id: str | int | float | UnsetType | None = UNSET


class Reply(msgspec.Struct):
    """A reply in MessagePack: exactly one of the two is there."""

    result: msgspec.Raw | UnsetType = UNSET
    fault: dict[str, Any] | UnsetType = UNSET


_call_decoder = msgspec.msgpack.Decoder(Call)
_json_call_decoder = msgspec.json.Decoder(JsonCall)
_reply_decoder = msgspec.msgpack.Decoder(Reply)
_event_decoder = msgspec.msgpack.Decoder(Event)
_packer = msgspec.msgpack.Encoder()
_AT = re.compile(r"^(?P<what>.*?)(?: - at (?P<key>`key` in )?`(?P<path>.*)`)?$", re.DOTALL)
_FIELD = re.compile(r"^Object (?:contains unknown|missing required) field `(?P<field>.*)`$")

_NUL = (b"\0", rb"\u0000")
_LONGEST = 300  # characters of a fault's text
_BODY = "body"  # the path of a `BadRequest` whose bytes are not MessagePack or JSON at all
_NOT_JSON, _NO_REQUEST = -32700, -32600

# JSON-RPC 2.0, section 5.1, and one code of ours for each family of faults; a client reads `error.data` for more.
_JSON_CODES: dict[type[Fault], int] = {
    errors.UnknownMethod: -32601,
    errors.BadRequest: -32602,
    errors.RequestFault: -32001,
    errors.StateFault: -32002,
    errors.GuestFault: -32003,
    errors.HostFault: -32004,
    errors.TaskFault: -32005,
    errors.ServiceFault: -32006,
    errors.InternalError: -32603,
}


def bad_request(error: msgspec.ValidationError | msgspec.DecodeError, *, root: str) -> BadRequest:
    """The fault that names the field: `$.vm.disks[0]` below `root` and what is wrong there."""
    match = _AT.match(str(error))
    what, path = (match["what"], match["path"] or "$") if match else (str(error), "$")
    what = f"of a key: {what}" if match and match["key"] else what
    path = root + path.removeprefix("$")
    named = _FIELD.match(what)
    if named:
        path = f"{path}.{named['field']}"
        what = "no such field" if "unknown" in what else "is missing"
    return BadRequest(path[:_LONGEST], what[:_LONGEST])  # either may quote the caller at any length


def refuse_nul(untrusted: Any, path: str) -> None:
    """Raise `BadRequest` for a text with a NUL in it: paths, arguments and xenstore's keys would end there."""
    if isinstance(untrusted, str):
        if "\0" in untrusted:
            raise BadRequest(path, "holds a NUL, which no text may")
    elif isinstance(untrusted, dict):
        for key, item in untrusted.items():
            refuse_nul(key, path)
            refuse_nul(item, f"{path}.{key}"[:_LONGEST])
    elif isinstance(untrusted, list):
        for place, item in enumerate(untrusted):
            refuse_nul(item, f"{path}[{place}]")


def decode_call(untrusted: bytes, content_type: str) -> tuple[str, msgspec.Raw, Any]:
    """Method, undecoded params and JSON-RPC id (`UNSET` for a notification, None in MessagePack)."""
    try:
        if content_type == JSON:
            if untrusted.lstrip()[:1] == b"[":
                raise BadRequest("request", "batches are not spoken here; send one request at a time")
            json_call = _json_call_decoder.decode(untrusted)
            return json_call.method, json_call.params, json_call.id
        if content_type != MSGPACK:
            raise BadRequest("content_type", f"{content_type!r:.80} is not spoken here; use {MSGPACK} or {JSON}")
        call = _call_decoder.decode(untrusted)
        return call.method, call.params, None
    except msgspec.ValidationError as error:
        raise bad_request(error, root="request") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadRequest(_BODY, f"is not well-formed: {error}") from None


def decode_params(raw: msgspec.Raw, params: type[T], content_type: str, *, forgiving: bool = False) -> T:
    """The typed params; `forgiving` drops unknown fields, for a caller that speaks a newer version than we do."""
    codec = msgspec.json if content_type == JSON else msgspec.msgpack
    try:
        decoded: T = lenient(codec.decode(raw), params) if forgiving else codec.decode(raw, type=params)
        if _NUL[content_type == JSON] in bytes(raw):  # in MessagePack it may as well be a number's
            refuse_nul(codec.decode(raw), "params")
        return decoded
    except msgspec.DecodeError as error:
        raise bad_request(error, root="params") from None
    except (UnicodeDecodeError, RecursionError, OverflowError) as error:
        raise BadRequest("params", f"is not well-formed: {error}") from None


def encode_call(method: str, params: msgspec.Struct) -> bytes:
    """A request's bytes in MessagePack."""
    return _packer.encode({"method": method, "params": params})


def encode_result(result: Any) -> bytes:
    """A successful reply's bytes in MessagePack."""
    return _packer.encode({"result": result})


def encode_fault(fault: Fault) -> bytes:
    """A failed reply's bytes in MessagePack."""
    return _packer.encode({"fault": errors.encode(fault)})


def as_json(reply: bytes, request_id: Any) -> bytes:
    """One of our own replies as a JSON-RPC 2.0 response to the request of that id."""
    body = msgspec.msgpack.decode(reply)
    answer: dict[str, Any] = {"jsonrpc": "2.0"}
    if "fault" in body:
        facts = body["fault"]
        code = json_code(errors.decode(facts))
        answer["error"] = {
            "code": code,
            "message": facts["message"],
            "data": {"name": facts["name"], "fields": facts["fields"]},
        }
    else:
        answer["result"] = body["result"]
    return msgspec.json.encode({**answer, "id": None if request_id is UNSET else request_id})


def json_code(fault: Fault) -> int:
    """The stable JSON-RPC error code of a fault; what is wrong before the params is the specification's own."""
    path = getattr(fault, "path", "params") if isinstance(fault, BadRequest) else "params"
    if not path.startswith("params"):
        return _NOT_JSON if path == _BODY else _NO_REQUEST
    return next((_JSON_CODES[cls] for cls in type(fault).__mro__ if cls in _JSON_CODES), -32000)


def decode_result(untrusted: bytes, result: Any) -> Any:
    """The typed result of a MessagePack reply, or its fault raised; fields we do not know are ignored."""
    try:
        reply = _reply_decoder.decode(untrusted)
        if reply.fault is not UNSET:
            raise errors.decode(reply.fault)
        if reply.result is UNSET:
            raise BadRequest("reply", "holds neither a result nor a fault")
        try:
            return msgspec.msgpack.decode(reply.result, type=result)
        except msgspec.ValidationError:
            return lenient(msgspec.msgpack.decode(reply.result), result)
    except msgspec.DecodeError as error:
        raise bad_request(error, root="reply") from None


def decode_event(untrusted: bytes) -> Event:
    """The event of a message; fields that we do not know are ignored."""
    try:
        try:
            return _event_decoder.decode(untrusted)
        except msgspec.ValidationError:
            return lenient(msgspec.msgpack.decode(untrusted), Event)
    except msgspec.DecodeError as error:
        raise bad_request(error, root="event") from None
    except (UnicodeDecodeError, RecursionError) as error:
        raise BadRequest("event", f"is not well-formed: {error}") from None


def lenient(untrusted: Any, wanted: type[T]) -> T:
    """Convert what was decoded without a type, leaving out the fields that `wanted` does not declare."""
    return msgspec.convert(_prune(untrusted, wanted), wanted)


def _prune(value: Any, wanted: Any) -> Any:
    origin, arguments = get_origin(wanted), get_args(wanted)
    if hasattr(wanted, "__metadata__"):  # Annotated
        return _prune(value, arguments[0] if origin is not None and arguments else wanted.__origin__)
    if origin in (Union, python_types.UnionType):
        structs = [a for a in arguments if isinstance(a, type) and issubclass(a, msgspec.Struct)]
        if isinstance(value, dict) and structs:
            tagged = [s for s in structs if s.__struct_config__.tag == value.get(s.__struct_config__.tag_field or "")]
            return _prune(value, (tagged or structs)[0])
        lists = [a for a in arguments if get_origin(a) in (list, dict, tuple)]
        return _prune(value, lists[0]) if lists else value
    if origin is list and isinstance(value, list):
        return [_prune(item, arguments[0]) for item in value]
    if origin is dict and isinstance(value, dict):
        return {key: _prune(item, arguments[1]) for key, item in value.items()}
    if origin is tuple and isinstance(value, list):
        return [_prune(item, kind) for item, kind in zip(value, arguments, strict=False)]
    if isinstance(wanted, type) and issubclass(wanted, msgspec.Struct) and isinstance(value, dict):
        fields = {f.encode_name: f.type for f in msgspec.structs.fields(wanted)}
        tag_field = wanted.__struct_config__.tag_field
        return {key: _prune(item, fields.get(key)) for key, item in value.items() if key in fields or key == tag_field}
    return value
