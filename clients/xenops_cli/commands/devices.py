# SPDX-License-Identifier: Apache-2.0
"""Disks, NICs, PCI and USB devices and virtual GPUs: the same words for every kind, from one table of kinds."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from xenops.errors import AlreadyExists
from xenops.idl import Interface
from xenops.interfaces.xenops import PCI, VBD, VGPU, VIF, VUSB
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.xlcfg import ConfigError, load
from xenops_cli.command import DEVICE, MACHINE, NO_WAIT, Argument, Command, argument, table_arguments, told
from xenops_cli.exits import Complaint, Exit
from xenops_cli.render import devices as looks
from xenops_cli.render.tables import Column, View, table
from xenops_cli.render.values import task_id
from xenops_cli.session import Done, Session


@dataclass(frozen=True)
class Kind:
    """A kind of device: its namespace, how it is listed, and its `spec` in the language of xl if it can be added."""

    interface: Any
    columns: tuple[Column, ...]
    key: str = ""  # the key of a configuration that holds such devices
    spec: str = ""
    forced: bool = False  # may be unplugged against the guest's will
    hotplug: bool = True
    numbered: bool = True  # its name is its position

    @property
    def name(self) -> str:
        """`vbd` for VBD."""
        return str(self.interface.name).lower()


KINDS = (
    Kind(VBD, looks.VBDS, key="disk", spec="phy:/dev/vg/disk,xvdb,w", forced=True, numbered=False),
    Kind(VIF, looks.VIFS, key="vif", spec="mac=00:16:3e:00:00:01,bridge=xenbr0", forced=True),
    Kind(PCI, looks.PCIS, key="pci", spec="0000:03:00.0"),
    Kind(VUSB, looks.VUSBS),
    Kind(VGPU, looks.VGPUS, hotplug=False),
)


def _list(kind: Kind) -> Command:
    def run(session: Session) -> list[Any]:
        machine = session.machine(session.args.vm)
        stats: list[Any] = session.namespace(kind.interface).list(machine.vm.id)
        return stats

    def show(value: list[Any], view: View) -> str:
        return table(value, kind.columns, view)

    return Command(
        name=f"{kind.name}-list",
        help=told(kind.interface.list),
        arguments=(MACHINE, *table_arguments(kind.columns)),
        run=run,
        show=show,
    )


def task_on_device(
    name: str, interface: type[Interface], rpc: Callable[..., Any], *arguments: Argument, force: bool = False
) -> Command:
    """A command that is one call with a device's id and ends when its task has ended."""

    def run(session: Session) -> Done:
        machine, id = session.device(session.args.device)
        call = getattr(session.namespace(interface), rpc.__name__)
        return session.finish((call(id, force=session.args.force) if force else call(id)), machine)

    return Command(name=name, help=told(rpc), arguments=(DEVICE, *arguments, NO_WAIT), run=run, show=task_id)


def _remove(kind: Kind) -> Command:
    def run(session: Session) -> DeviceId:
        _, id = session.device(session.args.device)
        session.namespace(kind.interface).remove(id)
        return id

    return Command(name=f"{kind.name}-remove", help=told(kind.interface.remove), arguments=(DEVICE,), run=run)


def read_device(kind: Kind, untrusted_spec: str, vm: str) -> Any:
    """One device from its spelling in the language of xl."""
    quote = '"' if "'" in untrusted_spec else "'"
    head = f"name='x'\ntype='hvm'\n{kind.key}=["
    try:
        found = load(f"{head}{quote}{untrusted_spec}{quote}]\n", filename=kind.key, uuid=vm).metadata
    except ConfigError as error:
        raise Complaint(f"{error.reason}; write it like {kind.spec!r}", Exit.USAGE) from None
    listed = _of(kind, found)
    if len(listed) != 1:
        raise Complaint(f"this is not one device; write it like {kind.spec!r}", Exit.USAGE)
    return listed[0]


def _of(kind: Kind, metadata: Metadata) -> list[Any]:
    devices: list[Any] = getattr(metadata, f"{kind.name}s")
    return devices


def placed(kind: Kind, device: Any, there: list[Any]) -> Any:
    """The device under a name, and at a position, that its machine has not given to another yet."""
    known = [getattr(stat, kind.name) for stat in there]
    if kind.numbered:
        position = max((other.position for other in known), default=-1) + 1
        id = DeviceId(vm=device.id.vm, dev=str(position))
        device = msgspec.structs.replace(device, id=id, position=position)
    if any(other.id == device.id for other in known):
        raise AlreadyExists(kind.interface.name, str(device.id))
    return device


def _add(kind: Kind) -> Command:
    def run(session: Session) -> dict[str, str]:
        machine = session.machine(session.args.vm)
        namespace = session.namespace(kind.interface)
        device = read_device(kind, session.args.spec, machine.vm.id)
        id = namespace.add(placed(kind, device, namespace.list(machine.vm.id)))
        if session.args.plug:
            session.watch(namespace.plug(id), machine)
        return {"id": str(id), "vm": id.vm, "dev": id.dev}

    return Command(
        name=f"{kind.name}-add",
        help=told(kind.interface.add),
        arguments=(
            MACHINE,
            argument("spec", metavar="SPEC", help=f"as in an xl configuration, for example {kind.spec}"),
            argument("--plug", action="store_true", help="plug it as well; the machine must be running"),
        ),
        run=run,
        show=lambda value, view: str(value["id"]),
    )


FORCE = argument("--force", action="store_true", help="take it away even if the guest refuses")


def _commands(kind: Kind) -> list[Command]:
    commands = [_list(kind)]
    if kind.key:
        commands.append(_add(kind))
    if kind.hotplug:
        extra = (FORCE,) if kind.forced else ()
        commands += [
            task_on_device(f"{kind.name}-plug", kind.interface, kind.interface.plug),
            task_on_device(f"{kind.name}-unplug", kind.interface, kind.interface.unplug, *extra, force=kind.forced),
        ]
    return [*commands, _remove(kind)]


COMMANDS: tuple[Command, ...] = tuple(command for kind in KINDS for command in _commands(kind))
