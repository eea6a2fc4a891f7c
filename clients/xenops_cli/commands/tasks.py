# SPDX-License-Identifier: Apache-2.0
"""Work under way, and what changes."""

from collections.abc import Iterator

from xenops.events import Event, Kind
from xenops.interfaces.xenops import Task
from xenops.types.task import Task as TaskRecord
from xenops_cli.command import Command, argument, count, seconds, table_arguments, told
from xenops_cli.exits import Complaint, Exit
from xenops_cli.progress import Bar
from xenops_cli.render import values
from xenops_cli.session import Done, Session


def tasks(session: Session) -> list[TaskRecord]:
    """All tasks."""
    listed: list[TaskRecord] = session.xenops.Task.list()
    return listed


def cancel(session: Session) -> Done:
    """Ask a task to stop."""
    session.xenops.Task.cancel(session.args.task)
    return Done(task=session.args.task)


def wait(session: Session) -> Done:
    """Wait for somebody's task: Ctrl-C only stops waiting."""
    args = session.args
    with Bar(f"task {args.task}", session.errors) as bar:
        result = session.xenops.finished(args.task, timeout_s=args.timeout, on_progress=bar.progress)
    return Done(task=args.task, state="Completed", result=result)


def events(session: Session) -> Iterator[Event]:
    """Whatever happens, until there were enough, the time is up or Ctrl-C comes."""
    args = session.args
    left: int | None = args.count

    def gap() -> None:
        session.note("events may have been missed here")

    for event in session.xenops.events(args.kind or (), lasting_s=args.timeout, on_gap=gap):
        yield event
        left = None if left is None else left - 1
        if left == 0:
            return
    if left is not None:
        raise Complaint(f"the time is up, and {left} more events were expected", Exit.TIMEOUT)


TASK = argument("task", metavar="TASK", help="the id of a task, as `tasks` lists it")

COMMANDS: tuple[Command, ...] = (
    Command(name="tasks", help=told(Task.list), arguments=table_arguments(values.TASKS), run=tasks, show=values.tasks),
    Command(name="task-cancel", help=told(Task.cancel), arguments=(TASK,), run=cancel),
    Command(
        name="task-wait",
        help="Wait for the end of a task and report it; its record is removed. Ctrl-C only stops waiting.",
        arguments=(TASK, argument("--timeout", type=seconds, metavar="S", help="wait no longer than this")),
        run=wait,
    ),
    Command(
        name="events",
        help="Print what changes, one line an event, until Ctrl-C; with --json one document a line.",
        arguments=(
            argument(
                "--kind",
                type=Kind,
                action="append",
                metavar="KIND",
                help="only these: vm vbd vif pci vusb vgpu task service",
            ),
            argument("--count", type=count, metavar="N", help="end after N events"),
            argument("--timeout", type=seconds, metavar="S", help="end after S seconds"),
        ),
        run=events,
        show=values.event,
        streams=True,
    ),
)
