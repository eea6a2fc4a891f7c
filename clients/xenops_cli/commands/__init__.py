# SPDX-License-Identifier: Apache-2.0
"""All commands, by family: the one list of them that there is."""

from xenops_cli.command import Command
from xenops_cli.commands import consoles, devices, drives, host, lifecycle, machines, stack, tasks

FAMILIES: tuple[tuple[str, tuple[Command, ...]], ...] = (
    ("machines", machines.COMMANDS),
    ("life of a machine", lifecycle.COMMANDS),
    ("consoles", consoles.COMMANDS),
    ("CDs", drives.COMMANDS),
    ("devices", devices.COMMANDS),
    ("tasks and events", tasks.COMMANDS),
    ("the host", host.COMMANDS),
    ("the stack and this program", stack.COMMANDS),
)

COMMANDS: dict[str, Command] = {command.name: command for _, family in FAMILIES for command in family}
