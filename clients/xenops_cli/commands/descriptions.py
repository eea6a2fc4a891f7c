# SPDX-License-Identifier: Apache-2.0
"""Machines as files: registered from a configuration of xl or from an export, and exported."""

import uuid
from pathlib import PurePath
from typing import Any

import msgspec

from xenops.errors import Fault
from xenops.types.metadata import Metadata
from xenops.xlcfg import ConfigError, dump, load
from xenops_cli import files
from xenops_cli.command import MACHINE, NO_WAIT, Command, argument
from xenops_cli.commands.lifecycle import START, start_machine
from xenops_cli.exits import Complaint, Exit
from xenops_cli.render import values
from xenops_cli.render.tables import View
from xenops_cli.session import Session


class Registered(msgspec.Struct, frozen=True, kw_only=True):
    """A machine that was registered, or `updated` if it was known before."""

    id: str
    name: str
    updated: bool
    warnings: list[str] = []


def add(session: Session) -> Registered:
    """Register what a file describes, all of it in one request."""
    filename = session.args.file
    description, warnings = read_machine(files.read_text(filename), filename)
    for warning in warnings:
        session.note(f"warning: {warning}")
    known = {machine.vm.id: machine.vm.name for machine in session.xenops.VM.list()}
    id = session.xenops.VM.import_metadata(description)
    name = (session.xenops.VM.stat(id)).vm.name
    if id in known:
        session.note(f"updated {name}, which was known already")
    elif name in known.values():
        session.note(f"another machine is called {name} too; use ids to tell them apart")
    return Registered(id=id, name=name, updated=id in known, warnings=list(warnings))


def create(session: Session) -> Registered:
    """Register and start."""
    registered = add(session)
    try:
        start_machine(session, session.xenops.VM.stat(registered.id))
    except Fault:
        session.note(f"{registered.name} stays registered as {registered.id}, but it did not start")
        raise
    return registered


def read_machine(untrusted_text: str, filename: str) -> tuple[dict[str, Any] | str, tuple[str, ...]]:
    """What `import_metadata` takes, and warnings: from our JSON, the original's JSON or a configuration of xl."""
    if not untrusted_text.lstrip().startswith("{"):
        try:
            loaded = load(untrusted_text, filename=filename, uuid=str(uuid.uuid4()))
        except ConfigError as error:
            raise Complaint(str(error), Exit.USAGE) from None
        return msgspec.to_builtins(loaded.metadata), tuple(str(warning) for warning in loaded.warnings)
    try:
        document = msgspec.json.decode(untrusted_text)
    except msgspec.DecodeError as error:
        raise Complaint(f"{filename} is no JSON document: {error}", Exit.USAGE) from None
    kind = document.get("vm", {}).get("ty") if isinstance(document.get("vm"), dict) else None
    if not isinstance(kind, dict) or "type" not in kind:
        return untrusted_text, ()  # not ours: xenopsd knows how the original wrote it
    try:
        msgspec.convert(document, Metadata)
    except msgspec.ValidationError as error:
        raise Complaint(f"{filename} does not describe a machine: {error}", Exit.USAGE) from None
    return document, ()


class Written(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A description of a machine, and the file that holds it."""

    id: str
    format: str
    filename: str = ""
    description: Any = None


def export(session: Session) -> Written:
    """Write all that is known of a machine."""
    args = session.args
    machine = session.machine(args.vm)
    metadata = session.xenops.VM.export_metadata(machine.vm.id)
    text = dump(metadata) if args.xm else values.document(metadata)
    text = text if text.endswith("\n") else text + "\n"
    form = "xl" if args.xm else "json"
    if args.filename in (None, "-"):
        return Written(id=machine.vm.id, format=form, description=text if args.xm else metadata)
    files.write_text(args.filename, text)
    return Written(id=machine.vm.id, format=form, filename=str(PurePath(args.filename)))


def exported(value: Written, view: View) -> str:
    """The description itself, unless a file took it."""
    if value.filename:
        return ""
    return value.description.rstrip("\n") if value.format == "xl" else values.document(value.description)


def ids(value: Registered, view: View) -> str:
    """The id alone, for `id=$(xenops-cli add FILE)`."""
    return value.id


FILE = argument("file", metavar="FILE", help="an xl configuration or an exported machine; - reads standard input")
METADATA_ONLY = argument("--metadata-only", action="store_true", help="disks are never touched: accepted for the habit")

COMMANDS: tuple[Command, ...] = (
    Command(
        name="add",
        help="Register the machine that a file describes, and print its id; a known id is updated.",
        arguments=(FILE,),
        run=add,
        show=ids,
    ),
    Command(
        name="create",
        help="Register the machine that a file describes and start it; it ends Running.",
        arguments=(FILE, *START, NO_WAIT),
        run=create,
        show=ids,
    ),
    Command(
        name="export",
        help="Write all that is known of a machine; `import` takes it back without loss.",
        arguments=(
            MACHINE,
            argument("--filename", metavar="F", help="the file to write, whole or not at all; without it, print"),
            argument("--xm", action="store_true", help="as an xl configuration, which cannot say everything"),
            METADATA_ONLY,
        ),
        run=export,
        show=exported,
    ),
    Command(
        name="import",
        help="Register what `export` wrote, here or with the original xenopsd, or an xl configuration.",
        arguments=(
            argument("--filename", dest="file", metavar="F", required=True, help="- reads standard input"),
            METADATA_ONLY,
        ),
        run=add,
        show=ids,
    ),
)
