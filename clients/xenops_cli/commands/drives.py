# SPDX-License-Identifier: Apache-2.0
"""Media in and out of CD and floppy drives."""

import os

from xenops.interfaces.xenops import VBD
from xenops.types.disk import Disk, Local, Vdi
from xenops_cli.command import DEVICE, NO_WAIT, Command, argument, told
from xenops_cli.commands.devices import task_on_device
from xenops_cli.exits import Complaint, Exit
from xenops_cli.render.values import task_id
from xenops_cli.session import Done, Session


def medium(text: str) -> Disk:
    """A path, `phy:PATH`, `file:PATH` or `sm:SR/VDI`."""
    if text.startswith("sm:") and len(text) > 3:
        return Vdi(name=text[3:])
    path = text.removeprefix("phy:").removeprefix("file:")
    if not path:
        raise Complaint("an empty source is no medium; name a file, or use cd-eject", Exit.USAGE)
    return Local(path=os.path.abspath(path))


def insert(session: Session) -> Done:
    """Put a medium into a drive."""
    disk = medium(session.args.source)
    machine, id = session.device(session.args.device)
    return session.finish(session.xenops.VBD.insert(id, disk), machine)


COMMANDS: tuple[Command, ...] = (
    task_on_device("cd-eject", VBD, VBD.eject),
    Command(
        name="cd-insert",
        help=told(VBD.insert),
        arguments=(
            DEVICE,
            argument("source", metavar="SOURCE", help="a file or block device of the host, or sm:SR/VDI"),
            NO_WAIT,
        ),
        run=insert,
        show=task_id,
    ),
)
