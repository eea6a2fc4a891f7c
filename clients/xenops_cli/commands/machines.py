# SPDX-License-Identifier: Apache-2.0
"""Which machines there are: list, describe, rename, forget."""

from collections.abc import Sequence

from xenops.interfaces.xenops import VM
from xenops.types.vm import VmStat
from xenops_cli.command import MACHINE, Command, argument, table_arguments, told
from xenops_cli.render import values
from xenops_cli.render.tables import View
from xenops_cli.session import Session


def list_machines(session: Session) -> list[VmStat]:
    """All machines."""
    listed: list[VmStat] = session.xenops.VM.list()
    return listed


def stat(session: Session) -> VmStat:
    """One machine."""
    return session.machine(session.args.vm)


def remove(session: Session) -> dict[str, str]:
    """Forget a machine; its devices go with it, or nothing does."""
    machine = session.machine(session.args.vm)
    session.xenops.VM.remove(machine.vm.id)
    return {"id": machine.vm.id, "name": machine.vm.name}


def rename(session: Session) -> dict[str, str]:
    """Give a machine another name."""
    machine = session.machine(session.args.vm)
    session.xenops.VM.rename(machine.vm.id, session.args.name)
    return {"id": machine.vm.id, "name": session.args.name}


def tabled(value: Sequence[VmStat], view: View) -> str:
    """The table of machines."""
    return values.machines(value, view)


COMMANDS: tuple[Command, ...] = (
    Command(
        name="list",
        help=told(VM.list),
        arguments=(
            *table_arguments(values.MACHINES),
            argument("-q", "--quiet", action="store_true", help="ids only, one a line"),
        ),
        run=list_machines,
        show=tabled,
    ),
    Command(name="remove", help=told(VM.remove), arguments=(MACHINE,), run=remove),
    Command(
        name="rename",
        help=told(VM.rename),
        arguments=(MACHINE, argument("name", metavar="NAME")),
        run=rename,
    ),
    Command(name="vm-stat", help=told(VM.stat), arguments=(MACHINE,), run=stat, show=values.machine),
)
