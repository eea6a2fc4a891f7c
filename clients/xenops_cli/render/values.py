# SPDX-License-Identifier: Apache-2.0
"""Machines, tasks, events and all other answers as a person wants to see them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import UNSET

from xenops.events import Change, Event
from xenops.types.console import VmConsole
from xenops.types.task import Completed, Pending, Task, TaskState
from xenops.types.vm import MIB, PowerState, VmStat
from xenops_cli.render.tables import (
    CYAN,
    GREEN,
    RED,
    YELLOW,
    Column,
    View,
    clean,
    clean_text,
    facts,
    flat,
    paint,
    table,
)

STATE_COLOURS = {"Running": GREEN, "Paused": YELLOW, "Suspended": CYAN}
TASK_COLOURS = {"Completed": GREEN, "Pending": YELLOW, "Failed": RED}
CHANGE_COLOURS = {Change.ADDED: GREEN, Change.CHANGED: YELLOW, Change.REMOVED: RED}
FACT_WIDTH = 30


def document(value: Any) -> str:
    """Any value as one JSON document."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def line_document(value: Any) -> str:
    """Any value as JSON in one line."""
    return msgspec.json.encode(value).decode()


def _domid(machine: VmStat) -> str:
    return ",".join(str(domid) for domid in machine.state.domids) or "-"


def _memory(machine: VmStat) -> int:
    """MiB: what it has, or what it would have."""
    return (machine.state.memory_actual or machine.vm.memory_static_max) // MIB


def _vcpus(machine: VmStat) -> int:
    has_domain = machine.state.power_state in (PowerState.RUNNING, PowerState.PAUSED)
    return machine.state.vcpu_target if has_domain and machine.state.vcpu_target else machine.vm.vcpus


def _started(machine: VmStat) -> str:
    return when(machine.state.last_start_time) if machine.state.last_start_time else "-"


def _tag(value: Any) -> str:
    return str(type(value).__struct_config__.tag)


MACHINES = (
    Column("name", "Name", lambda m: m.vm.name),
    Column("domid", "ID", _domid, right=True),
    Column("mem", "Mem", _memory, right=True),
    Column("vcpus", "VCPUs", _vcpus, right=True),
    Column("state", "State", lambda m: m.state.power_state.value, paint=STATE_COLOURS),
    Column("uuid", "UUID", lambda m: m.vm.id, usual=False),
    Column("type", "Type", lambda m: _tag(m.vm.ty), usual=False),
    Column("maxmem", "MaxMem", lambda m: m.vm.memory_static_max // MIB, right=True, usual=False),
    Column("maxvcpus", "MaxVCPUs", lambda m: m.vm.vcpu_max, right=True, usual=False),
    Column("started", "Started", _started, usual=False),
)


def machines(value: Sequence[VmStat], view: View) -> str:
    """A table of machines, or with `-q` their ids alone."""
    if view.quiet:
        return "\n".join(machine.vm.id for machine in value)
    return table(value, MACHINES, view)


def machine(value: VmStat, view: View) -> str:
    """What a machine is now, one fact a line."""
    state = msgspec.to_builtins(value.state)
    consoles = [f"{c.protocol.value} {c.path or c.port}" for c in value.state.consoles]
    state["consoles"] = consoles
    pairs: list[tuple[str, object]] = [("id", value.vm.id), ("name", value.vm.name)]
    for name, fact in flat(state):
        in_mib = name.startswith("memory_") and isinstance(fact, int)
        pairs.append((name, f"{fact} ({int(str(fact)) // MIB} MiB)" if in_mib else fact))
    return facts(pairs, FACT_WIDTH)


def any_facts(value: Any, view: View) -> str:
    """The fields of any record, one a line."""
    return facts(flat(msgspec.to_builtins(value)))


def when(unix_ms: int) -> str:
    """A moment in UTC, to the second."""
    try:
        return datetime.fromtimestamp(unix_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return str(unix_ms)


def task_state(state: TaskState) -> str:
    """A task's state in one word."""
    return _tag(state)


def _outcome(state: TaskState) -> str:
    if isinstance(state, Pending):
        return f"{state.progress:.0%}"
    if isinstance(state, Completed):
        return f"{state.duration_s:.1f} s"
    return state.fault.message or state.fault.name


TASKS = (
    Column("id", "ID", lambda t: t.id),
    Column("created", "Created", lambda t: when(t.ctime)),
    Column("operation", "Operation", lambda t: t.operation),
    Column("vm", "VM", lambda t: "-" if t.vm is UNSET else t.vm),
    Column("state", "State", lambda t: task_state(t.state), paint=TASK_COLOURS),
    Column("cancellable", "Cancel", lambda t: _cancel(t)),
    Column("outcome", "Outcome", lambda t: _outcome(t.state)),
    Column("dbg", "Asked by", lambda t: t.dbg, usual=False),
)


def _cancel(task: Task) -> str:
    """Whether it may still be cancelled."""
    if not isinstance(task.state, Pending):
        return "-"
    return "yes" if task.cancellable else "no"


def tasks(value: Sequence[Task], view: View) -> str:
    """A table of tasks; a task's own steps stand below it unless columns were chosen."""
    lines = table(value, TASKS, view).split("\n")
    if view.columns:
        return "\n".join(lines)
    shown = lines[:1] if view.headers else []
    for task, text in zip(value, lines[len(shown) :], strict=False):
        shown.append(text)
        shown += [
            f"  |_ {clean(step.name):<30} {_tag(step.state)} {clean(_outcome(step.state))}" for step in task.subtasks
        ]
    return "\n".join(shown)


CONSOLES = (
    Column("vm", "VM", lambda c: c.vm),
    Column("name", "Name", lambda c: c.name),
    Column("protocol", "Protocol", lambda c: c.console.protocol.value),
    Column("address", "Address", lambda c: c.console.path or c.console.port),
)


def consoles(value: Sequence[VmConsole], view: View) -> str:
    """A table of consoles."""
    return table(value, CONSOLES, view)


def event(value: Event, view: View) -> str:
    """One line for one event."""
    moment = when(value.at)[11:-1]
    details = [str(word) for word in (value.name, value.power_state, value.state) if word is not UNSET]
    if value.progress is not UNSET:
        details.append(f"{value.progress:.0%}")
    change = paint(f"{value.change.value:<8}", CHANGE_COLOURS[value.change], view)
    return f"{moment} {change} {value.kind.value:<7} {clean(value.id)}  {clean(' '.join(details))}".rstrip()


def text(value: str, view: View) -> str:
    """Text of somebody else, made safe to print."""
    return clean_text(value)


def json_text(value: Any, view: View) -> str:
    """What is best read as JSON."""
    return document(value)


def task_id(value: Any, view: View) -> str:
    """A task that is not waited for is named, so that it can be found again; one that has ended needs no word."""
    return str(value.task) if value.state == "Pending" else ""
