# SPDX-License-Identifier: Apache-2.0
"""The API as an AsyncAPI 3.0 document: queues and the events' exchange, operations, messages, and their JSON schemas.

The schemas describe MessagePack maps, and JSON just as well: the two encodings of a message differ in the envelope
alone, which docs/api/wire.md tells.
"""

from collections.abc import Iterator
from typing import Any

import msgspec

from xenops import errors, wire
from xenops.bus.port import EVENTS_EXCHANGE, MSGPACK
from xenops.derive import samples
from xenops.derive.catalogue import SERVICES, Service, all_methods, sentence
from xenops.errors import Fault
from xenops.events import Event, Kind
from xenops.idl import Method, methods

Map = dict[str, Any]

_BINDING = "0.3.0"  # the version of AsyncAPI's AMQP bindings
_EVENTS = "{host}.{instance}.{kind}.{id}"
_HEADERS: Map = {
    "type": "object",
    "properties": {
        "version": {"type": "string", "description": "the version of the interface that the caller was written for"},
        "deadline": {"type": "integer", "description": "Unix milliseconds: nothing starts after it"},
        "debug_info": {"type": "string", "maxLength": 512, "description": "stands in every log line of the work"},
        "traceparent": {"type": "string", "maxLength": 512, "description": "W3C trace context"},
    },
}
_PARAMETERS: dict[str, Map] = {
    "host": {"description": "the host's name on the bus: its short host name unless configured"},
    "instance": {"description": "which of the host's xenopsd: the name of its backend unless configured"},
    "kind": {"description": "what the event is about", "enum": [kind.value for kind in Kind]},
    "id": {"description": "the id of the object; dots in it are written as underscores"},
}
_OF_ANY = "fault.of_any_request"
_ANYWHERE = (errors.BadRequest, errors.UnknownMethod, errors.DeadlineExceeded, errors.Busy, errors.InternalError)


def document() -> Map:
    """The document as a map."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "xenopsd",
            "version": wire.VERSION,
            "description": "The domain manager of a Xen host, asked over AMQP 0-9-1. See docs/api/wire.md.",
            "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
        },
        "defaultContentType": MSGPACK,
        "servers": {
            "switch": {
                "host": "127.0.0.1:5672",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "The embedded message switch, or RabbitMQ.",
            }
        },
        "channels": {**{s.name: _queue(s) for s in SERVICES}, "replies": _replies(), "events": _events()},
        "operations": {name: operation for s in SERVICES for name, operation in _operations(s)} | _publishing(),
        "components": {
            "messages": {name: message for method in all_methods() for name, message in _messages(method)}
            | {"event": _event()},
            "schemas": _schemas(),
        },
    }


def text() -> str:
    """The document as JSON."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=1).decode() + "\n"


def _queue(service: Service) -> Map:
    return {
        "address": service.queue,
        "title": service.name,
        "description": f"The request queue of {service.name}, which {service.does}.",
        **_parameters(service.queue),
        "messages": {
            _request_name(method): _ref("messages", _request_name(method))
            for interface in service.interfaces
            for method in methods(interface).values()
        },
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {"name": service.queue, "durable": True, "exclusive": False, "autoDelete": False},
                "bindingVersion": _BINDING,
            }
        },
    }


def _replies() -> Map:
    return {
        "address": None,
        "description": "Where the request's `reply_to` points: direct reply-to, or a queue of the caller's own.",
        "messages": {_reply_name(method): _ref("messages", _reply_name(method)) for method in all_methods()},
    }


def _events() -> Map:
    return {
        "address": _EVENTS,
        "title": EVENTS_EXCHANGE,
        "description": "A topic exchange; a subscriber binds a queue of its own to the topics that it wants.",
        **_parameters(_EVENTS),
        "messages": {"event": _ref("messages", "event")},
        "bindings": {
            "amqp": {
                "is": "routingKey",
                "exchange": {"name": EVENTS_EXCHANGE, "type": "topic", "durable": True, "autoDelete": False},
                "bindingVersion": _BINDING,
            }
        },
    }


def _operations(service: Service) -> Iterator[tuple[str, Map]]:
    for interface in service.interfaces:
        for method in methods(interface).values():
            yield (
                f"{service.name}.{method.wire}",
                {
                    "action": "receive",
                    "channel": {"$ref": f"#/channels/{service.name}"},
                    "summary": method.doc.split("\n\n")[0],
                    "messages": [{"$ref": f"#/channels/{service.name}/messages/{_request_name(method)}"}],
                    "reply": {
                        "address": {"location": "$message.header#/reply_to"},
                        "channel": {"$ref": "#/channels/replies"},
                        "messages": [{"$ref": f"#/channels/replies/messages/{_reply_name(method)}"}],
                    },
                },
            )


def _publishing() -> Map:
    return {
        "publish": {
            "action": "send",
            "channel": {"$ref": "#/channels/events"},
            "summary": sentence(Event),
            "messages": [{"$ref": "#/channels/events/messages/event"}],
        }
    }


def _messages(method: Method) -> Iterator[tuple[str, Map]]:
    correlation = {"location": "$message.header#/correlation_id"}
    properties = {"method": {"const": method.wire}, "params": _ref("schemas", method.params.__name__)}
    example = {"method": method.wire, "params": samples.request(method)}
    yield (
        _request_name(method),
        {
            "title": method.wire,
            "summary": method.doc.split("\n\n")[0],
            "headers": _ref("schemas", "headers"),
            "correlationId": correlation,
            "payload": {"type": "object", "required": ["method"], "properties": properties},
            "examples": [{"name": "least", "payload": example}],
        },
    )
    own = [_ref("schemas", _envelope_name(cls)) for cls in method.raises if cls not in _ANYWHERE]
    fault: Map = {"anyOf": [_ref("schemas", _OF_ANY), *own]}
    yield (
        _reply_name(method),
        {
            "title": f"{method.wire} answered",
            "correlationId": correlation,
            "payload": {
                "oneOf": [
                    {"type": "object", "required": ["result"], "properties": {"result": _result(method)}},
                    {"type": "object", "required": ["fault"], "properties": {"fault": fault}},
                ]
            },
        },
    )


def _event() -> Map:
    return {"title": "event", "summary": sentence(Event), "payload": _ref("schemas", Event.__name__)}


def _schemas() -> Map:
    every = [*(m.params for m in all_methods()), *(m.result for m in all_methods()), Event]
    _, found = msgspec.json.schema_components(every, ref_template="#/components/schemas/{name}")
    portable: Map = _portable(found)
    known = [cls for cls in Fault.known.values() if not cls.__subclasses__()]
    of_any = {"description": "Faults of any request.", "anyOf": [_ref("schemas", _envelope_name(c)) for c in _ANYWHERE]}
    faults = {_envelope_name(cls): _fault(cls) for cls in known}
    return {"headers": _HEADERS, _OF_ANY: of_any} | portable | faults


def _result(method: Method) -> Map:
    (schema,), _ = msgspec.json.schema_components([method.result], ref_template="#/components/schemas/{name}")
    portable: Map = _portable(schema)
    return portable


def _fault(cls: type[Fault]) -> Map:
    _, found = msgspec.json.schema_components([cls])
    fields = {key: value for key, value in found[cls.__name__].items() if key not in ("title", "description")}
    return {
        "title": cls.__name__,
        "description": sentence(cls),
        "type": "object",
        "required": ["name", "fields", "message"],
        "properties": {"name": {"const": cls.__name__}, "fields": fields, "message": {"type": "string"}},
    }


def _portable(schema: Any) -> Any:
    """A schema that AsyncAPI's validators take and other languages' regular expressions read.

    Python ends a pattern with \\Z, where others write $. msgspec's `discriminator` is OpenAPI's: it says nothing here
    that the `enum` of each tag does not.
    """
    if isinstance(schema, dict):
        kept = {key: _portable(value) for key, value in schema.items() if not _is_discriminator(key, value)}
        if isinstance(kept.get("pattern"), str):
            kept["pattern"] = kept["pattern"].replace(r"\Z", "$")
        return kept
    return [_portable(item) for item in schema] if isinstance(schema, list) else schema


def _is_discriminator(key: str, value: Any) -> bool:
    return key == "discriminator" and isinstance(value, dict) and "propertyName" in value


def _parameters(address: str) -> Map:
    return {"parameters": {name: about for name, about in _PARAMETERS.items() if f"{{{name}}}" in address}}


def _request_name(method: Method) -> str:
    return f"{method.wire}.request"


def _reply_name(method: Method) -> str:
    return f"{method.wire}.reply"


def _envelope_name(cls: type[Fault]) -> str:
    return f"fault.{cls.__name__}"


def _ref(section: str, name: str) -> Map:
    return {"$ref": f"#/components/{section}/{name}"}
