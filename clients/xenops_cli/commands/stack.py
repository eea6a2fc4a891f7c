# SPDX-License-Identifier: Apache-2.0
"""Where the stack is, any call of its declaration, and what this program says of itself."""

import argparse
import importlib
import re
from typing import Any

import msgspec

from xenops import wire
from xenops.errors import BadRequest
from xenops.idl import Interface, Method, methods
from xenops.interfaces.xenops import INTERFACES
from xenops_cli import VERSION, files
from xenops_cli.bus import where
from xenops_cli.command import Command, argument, table_arguments
from xenops_cli.exits import Complaint, Exit
from xenops_cli.parser import build
from xenops_cli.render import values
from xenops_cli.render.tables import Column, View, facts, flat, table
from xenops_cli.selection import nearest_word
from xenops_cli.session import Session

_PASSWORD = re.compile(r"(?<=//)([^/@:]*):[^/@]*@")


def stack(session: Session) -> dict[str, Any]:
    """What the running stack wrote down."""
    found: dict[str, Any] = msgspec.to_builtins(where(session.args))
    return found


def place(value: dict[str, Any], view: View) -> str:
    """The same for a person, who may paste it somewhere: without the password."""
    return facts(flat({**value, "amqp": _PASSWORD.sub(r"\1:***@", value["amqp"])}))


def declared() -> dict[str, tuple[type[Interface], Method]]:
    """Every method of xenopsd by the name it has on the wire."""
    return {name: (interface, method) for interface in INTERFACES for name, method in methods(interface).items()}


def method_name(text: str) -> str:
    """The name of a method that there is."""
    known = declared()
    if text not in known:
        raise argparse.ArgumentTypeError(f"there is no method {text!r}; {nearest_word(text, known, 'api-list')}")
    return text


def call(session: Session) -> Any:
    """Any call, its parameters checked against the declaration before they are sent."""
    args = session.args
    interface, method = declared()[args.method]
    untrusted = files.read_text("-") if args.params == "-" else args.params
    try:
        params = msgspec.json.decode(untrusted, type=method.params)
    except msgspec.DecodeError as error:
        raise _explained(wire.bad_request(error, root="params"), method) from None
    given = {field: getattr(params, field) for field in params.__struct_fields__}
    return getattr(session.namespace(interface), method.attribute)(**given)


def listed(session: Session) -> list[dict[str, Any]]:
    """Every method with its parameters."""
    return [
        {"method": name, "params": list(method.params.__struct_fields__), "doc": method.doc.split("\n")[0]}
        for name, (_, method) in declared().items()
    ]


def _explained(fault: BadRequest, method: Method) -> Complaint:
    fields = ", ".join(method.params.__struct_fields__) or "no parameters"
    return Complaint(f'{fault}; {method.wire} takes {fields} as one JSON object, {{"name": value}}', Exit.USAGE)


def answer(value: Any, view: View) -> str:
    """The result as JSON, since nobody knows what it is."""
    return "" if value is None else values.document(value)


METHODS = (
    Column("method", "Method", lambda row: row["method"]),
    Column("params", "Parameters", lambda row: ", ".join(row["params"]), usual=False),
    Column("doc", "What it does", lambda row: row["doc"]),
)


def version(session: Session) -> dict[str, str]:
    """This program's version and that of the interface it was written for."""
    return {"name": "xenops-cli", "version": VERSION, "interface": wire.VERSION}


def completion(session: Session) -> dict[str, str]:
    """A script that completes our commands and options in a shell."""
    shell = session.args.shell
    try:
        shtab = importlib.import_module("shtab")  # optional, and slow enough not to be loaded for every command
    except ModuleNotFoundError:
        raise Complaint("completion needs shtab: pip install 'xenopsd[cli]'") from None
    return {"shell": shell, "script": shtab.complete(build(), shell=shell)}


COMMANDS: tuple[Command, ...] = (
    Command(
        name="where",
        help="Say where the running stack is; with --json the URL holds the password, for any AMQP client.",
        run=stack,
        show=place,
        offline=True,
    ),
    Command(
        name="api",
        help="Call any method of the interface and print its answer as JSON.",
        arguments=(
            argument("method", metavar="METHOD", type=method_name, help="as `api-list` has it, for example VM.stat"),
            argument("params", metavar="JSON", nargs="?", default="{}", help='for example \'{"id": "…"}\'; - reads it'),
        ),
        run=call,
        show=answer,
    ),
    Command(
        name="api-list",
        help="List the methods of the interface.",
        arguments=table_arguments(METHODS),
        run=listed,
        show=lambda value, view: table(value, METHODS, view),
        offline=True,
    ),
    Command(
        name="completion",
        help='Print a completion script; for bash: eval "$(xenops-cli completion bash)".',
        arguments=(argument("shell", choices=("bash", "zsh", "tcsh")),),
        run=completion,
        show=lambda value, view: str(value["script"]),
        offline=True,
    ),
    Command(
        name="version",
        help="Print the version of this program.",
        run=version,
        show=lambda value, view: f"xenops-cli {value['version']} (interface {value['interface']})",
        offline=True,
    ),
)
