# SPDX-License-Identifier: Apache-2.0
"""The consoles of machines: which there are, and a way into one."""

from importlib import import_module
from typing import Any

from xenops.types.console import VmConsole
from xenops_cli.command import MACHINE, Command, argument, count, seconds, table_arguments
from xenops_cli.console.listening import Heard, Viewed
from xenops_cli.exits import Complaint, Exit
from xenops_cli.render import values
from xenops_cli.render.tables import View
from xenops_cli.session import Session

PATIENCE_S = 30.0  # how long an expected text is waited for unless --timeout says otherwise


def listed(session: Session) -> list[VmConsole]:
    """The consoles of one machine, or of all that run."""
    args = session.args
    machines = [session.machine(args.vm)] if args.vm else session.xenops.VM.list()
    return [
        VmConsole(vm=machine.vm.id, name=machine.vm.name, console=console)
        for machine in machines
        for console in machine.state.consoles
    ]


def console(session: Session) -> Heard | Viewed:
    """Attach a terminal, or listen as a script does, or open a viewer."""
    args = session.args
    machine = session.machine(args.vm)
    if args.vnc:
        viewed: Viewed = import_module("xenops_cli.console.viewer").view_picture(session, machine)
        return viewed
    text = import_module("xenops_cli.console.attach")  # an event loop takes long to read: only who needs one does
    conditions = args.expect is not None or args.lines is not None or args.timeout is not None
    if not conditions and args.send is None and not args.json:
        heard: Heard = text.attach(session, machine)
        return heard
    patience_s = args.timeout if args.timeout is not None or not conditions else PATIENCE_S
    heard = text.hear(session, machine, timeout_s=patience_s)
    if heard.ended == "timeout" and (args.expect is not None or args.lines is not None):
        wanted = repr(args.expect) if args.expect is not None else f"{args.lines} lines"
        raise Complaint(f"{wanted} did not appear on the console of {machine.vm.name} in time", Exit.TIMEOUT)
    return heard


def shown(value: Any, view: View) -> str:
    """A text console has been printed as it came; a picture has an address."""
    if isinstance(value, Viewed) and not value.viewer:
        return f"a VNC viewer can connect once, within {value.expires_s:g} s, to {value.host}::{value.port}"
    return ""


COMMANDS: tuple[Command, ...] = (
    Command(
        name="console",
        help="Attach to a machine's text console; Ctrl-] leaves.\n\n"
        "With --expect, --lines, --timeout or --send it only listens, as scripts do.\n"
        "The session survives a reboot of the machine.",
        arguments=(
            MACHINE,
            argument("--expect", metavar="TEXT", help="listen until this text appears"),
            argument("--lines", metavar="N", type=count, help="listen until N lines have come"),
            argument("--timeout", metavar="S", type=seconds, help="listen no longer than S seconds"),
            argument("--send", metavar="TEXT", help="type this line first"),
            argument(
                "--vnc", action="store_true", help="the graphical console: starts vncviewer, or prints an address"
            ),
        ),
        run=console,
        show=shown,
    ),
    Command(
        name="console-list",
        help="The consoles of a machine, or of all machines.",
        arguments=(
            argument("vm", metavar="VM", nargs="?", help="name or id of a machine, or the unique beginning of one"),
            *table_arguments(values.CONSOLES),
        ),
        run=listed,
        show=values.consoles,
    ),
)
