# SPDX-License-Identifier: Apache-2.0
"""The manual of the API as Markdown pages: one a namespace, one of types, one of faults, and their index."""

import inspect
import json
import re
from posixpath import relpath

import msgspec.inspect as shapes

from xenops import wire
from xenops.derive import samples
from xenops.derive.catalogue import SERVICES, Named, Service, families, named_types, sentence, shape_of_params
from xenops.derive.spelling import Link, default, spell
from xenops.errors import Fault
from xenops.idl import Interface, Method, methods
from xenops.interfaces.xenops import General

_MADE = "<!-- Made from the declaration by `python -m xenops.derive`; change the declaration, not this page. -->\n"
_PLACE = re.compile(r"\{(\w+)[^}]*\}")  # where a fault's sentence takes a field
_TYPES, _FAULTS, _WIRE, _INDEX = "types.md", "faults.md", "wire.md", "README.md"


def pages() -> dict[str, str]:
    """Every page by its path below docs/api."""
    made = {_INDEX: _index(), _TYPES: _types(), _FAULTS: _faults()}
    for service in SERVICES:
        for interface in service.interfaces:
            path = page_of(service, interface)
            if path not in made:
                made[path] = _namespace(service, interface, path)
    return made


def page_of(service: Service, interface: type[Interface]) -> str:
    """The page that describes this interface; the general calls stand on one page for all services."""
    owner = SERVICES[0] if interface is General else service
    return f"{owner.name}/{interface.__name__.lower()}.md"


def _index() -> str:
    out = [
        "# The API\n",
        _MADE,
        f"How requests, replies and events travel is told in [the contract on the wire]({_WIRE}). What can be asked of",
        f"each service is listed here; [types]({_TYPES}) and [faults]({_FAULTS}) have pages of their own, and",
        "[asyncapi.json](asyncapi.json) says all of it to programs.\n",
    ]
    for service in SERVICES:
        out.append(f"## {service.name}\n\nIt {service.does}; its queue is `{_angled(service.queue)}`.\n")
        out.append("| Method | Answers with | |\n|---|---|---|")
        for interface in service.interfaces:
            path = page_of(service, interface)
            for method in methods(interface).values():
                link = f"[`{method.wire}`]({path}#{_anchor(method.wire)})"
                out.append(f"| {link} | {_result(method, _linked(_INDEX))} | {_first(method)} |")
        out.append("")
    return "\n".join(out)


def _namespace(service: Service, interface: type[Interface], path: str) -> str:
    up = relpath(_INDEX, path.rpartition("/")[0])
    asked = "every service" if interface is General else f"`{_angled(service.queue)}`"
    out = [
        f"# {interface.__name__}\n",
        _MADE,
        f"{sentence(interface)} Asked of {asked}. All methods: [the API]({up}).\n",
    ]
    return "\n".join(out + [_method(method, path) for method in methods(interface).values()])


def _method(method: Method, path: str) -> str:
    link = _linked(path)
    out = [f"## {method.wire}\n", method.doc, ""]
    fields = shape_of_params(method).fields
    if fields:
        out.append("| Parameter | Type | Default |\n|---|---|---|")
        out += [f"| `{f.encode_name}` | {spell(f.type, link)} | {_code(default(f))} |" for f in fields]
        out.append("")
    out.append(f"Answers with: {_result(method, link)}. {_manner(method)}\n")
    here = relpath(_FAULTS, path.rpartition("/")[0])
    faults = ", ".join(f"[{cls.__name__}]({here}#{cls.__name__.lower()})" for cls in method.raises)
    out.append(f"Faults of its own: {faults or 'none'}.\n")
    params = samples.request(method)
    request = {"method": method.wire, "params": params} if params else {"method": method.wire}
    both = (request, {"jsonrpc": "2.0", "id": 1, **request})
    out.append("The request as MessagePack, written as JSON, and as JSON-RPC:\n")
    out.append("```json\n" + "\n".join(json.dumps(each) for each in both) + "\n```\n")
    return "\n".join(out)


def _manner(method: Method) -> str:
    if method.waits:
        return "It waits; asking again does no harm."
    if method.reads:
        return "It changes nothing; asking again does no harm."
    return "Asked again with the same message id, it answers as it did the first time."


def _types() -> str:
    out = ["# Types\n", _MADE]
    out.append(
        "What requests, replies and events carry. A field whose default is *absent* is left out rather than null; a"
        " union is a map\nwhose `type` says which it is. `bytes` are a binary string in MessagePack and base64 in JSON.\n"
    )
    module = ""
    for named in named_types():
        if named.cls.__module__ != module:
            module = named.cls.__module__
            title = module.rpartition(".")[2].replace("_", " ").capitalize()
            out.append(f"## {title}\n\n{sentence(inspect.getmodule(named.cls))}\n")
        out.append(_type(named))
    return "\n".join(out)


def _type(named: Named) -> str:
    out = [f'### <a id="{_type_anchor(named.cls)}"></a>{named.cls.__name__}\n', f"{sentence(named.cls)}\n"]
    if isinstance(named, shapes.EnumType):
        out.append("One of " + ", ".join(f"`{member.value}`" for member in named.cls) + ".\n")
        return "\n".join(out)
    if named.tag_field:
        out.append(f'Its `{named.tag_field}` is `"{named.tag}"`.\n')
    if named.fields:
        out.append("| Field | Type | Default |\n|---|---|---|")
        link = _linked(_TYPES)
        out += [f"| `{f.encode_name}` | {spell(f.type, link)} | {_code(default(f))} |" for f in named.fields]
        out.append("")
    return "\n".join(out)


def _faults() -> str:
    out = [
        "# Faults\n",
        _MADE,
        f"How a fault travels is told in [the contract on the wire]({_WIRE}#replies). The number is the JSON-RPC error"
        " code;\n`name` and `fields` are the same in both encodings. The message is for a person, and may change.\n",
        "Any request may be answered with a fault of the request itself, with `InternalError`, and on the caller's own"
        " side with a\nfault of the service family; what a method may answer beyond that is said at the method.\n",
    ]
    for family, members in families():
        out.append(f"## {family.__name__}\n\n{sentence(family)}\n")
        out += [_fault(cls, heading="###") for cls in members if cls is not family]
        if members == [family]:
            out.append(_fault(family, heading=""))
    return "\n".join(out)


def _fault(cls: type[Fault], heading: str) -> str:
    out = [f"{heading} {cls.__name__}\n\n{sentence(cls)}\n"] if heading else []
    shape = shapes.type_info(cls)
    assert isinstance(shape, shapes.DataclassType)
    fields = ", ".join(f"`{f.name}` {spell(f.type)}" for f in shape.fields)
    message = _PLACE.sub(r"<\1>", cls.sentence)
    code = wire.json_code(cls.__new__(cls))
    out.append(f"- code: {code}\n- fields: {fields or 'none'}\n- message: `{message}`\n")
    return "\n".join(out)


def _result(method: Method, link: Link) -> str:
    return "nothing (null)" if method.result is type(None) else spell(shapes.type_info(method.result), link)


def _first(method: Method) -> str:
    return " ".join(method.doc.split("\n\n")[0].split())


def _linked(path: str) -> Link:
    where = relpath(_TYPES, path.rpartition("/")[0] or ".") if path != _TYPES else ""

    def link(cls: type) -> str:
        return f"[{cls.__name__}]({where}#{_type_anchor(cls)})"

    return link


def _type_anchor(cls: type) -> str:
    return "type-" + cls.__name__.lower()


def _anchor(heading: str) -> str:
    """The anchor that Markdown renderers give to a heading that is a method's name."""
    return heading.lower().replace(".", "")


def _angled(queue: str) -> str:
    return queue.replace("{", "<").replace("}", ">")


def _code(text: str) -> str:
    return text if text in ("required", "absent") else f"`{text}`"
