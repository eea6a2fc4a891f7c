# SPDX-License-Identifier: Apache-2.0
"""Start, stop, sleep: what can be done to a machine that is registered."""

import os
from collections.abc import Callable
from importlib import import_module
from typing import Any

from xenops.errors import BadPowerState, FailedToAcknowledgeShutdownRequest, FailedToShutdown
from xenops.interfaces.xenops import VM
from xenops.types.disk import Local
from xenops.types.vm import VmStat
from xenops_cli.command import MACHINE, NO_WAIT, Argument, Command, argument, count, seconds, size, told
from xenops_cli.exits import Complaint, Exit
from xenops_cli.render.values import task_id
from xenops_cli.session import Done, Session

Params = Callable[[Session], dict[str, Any]]


def no_params(session: Session) -> dict[str, Any]:
    """The method wants the machine's id and nothing else."""
    return {}


def on_machine(
    name: str, rpc: Callable[..., Any], *arguments: Argument, params: Params = no_params, help: str = ""
) -> Command:
    """A command that is one call with a machine's id and ends when the task that it started has ended."""

    def run(session: Session) -> Done:
        machine = session.machine(session.args.vm)
        call = getattr(session.xenops.VM, rpc.__name__)
        return session.finish(call(machine.vm.id, **params(session)), machine)

    return Command(name=name, help=help or told(rpc), arguments=(MACHINE, *arguments, NO_WAIT), run=run, show=task_id)


def start(session: Session) -> Done:
    """Start a machine; it ends Running unless it is to wait."""
    return start_machine(session, session.machine(session.args.vm))


def start_machine(session: Session, machine: VmStat) -> Done:
    """Start a known machine as the arguments say, and stay on its console if they ask for that."""
    args = session.args
    if args.console and args.json:
        raise Complaint("--console and --json do not go together; use the console command afterwards", Exit.USAGE)
    task = session.xenops.VM.start(machine.vm.id, force=args.force, paused=args.paused)
    if not args.console:
        return session.finish(task, machine)
    done = session.watch(task, machine)
    import_module("xenops_cli.console.attach").attach(session, machine)  # an event loop takes long to read
    return done


def shutdown(session: Session) -> Done:
    """Stop a machine; with `--force`, a guest that does not obey in time is powered off."""
    args = session.args
    machine = session.machine(args.vm)
    task = session.xenops.VM.shutdown(machine.vm.id, delay=args.timeout)
    if args.force and args.timeout is not None:
        try:
            return session.watch(task, machine)
        except (BadPowerState, FailedToAcknowledgeShutdownRequest, FailedToShutdown) as fault:
            session.note(f"{fault}; powering off")
            task = session.xenops.VM.shutdown(machine.vm.id)
    return session.finish(task, machine)


def image(session: Session) -> dict[str, Any]:
    """Where the machine's memory is kept; a relative path means the folder we stand in."""
    return {"disk": Local(path=os.path.abspath(session.args.image))}


def image_and_paused(session: Session) -> dict[str, Any]:
    """The same, and whether the machine is to wait."""
    return {**image(session), "paused": session.args.paused}


def memory(session: Session) -> dict[str, Any]:
    """One size for both bounds, or two."""
    low = session.args.memory
    return {"min": low, "max": session.args.max or low}


def migrate(session: Session) -> Done:
    """Move a running machine to another xenopsd."""
    args = session.args
    machine = session.machine(args.vm)
    queue = destination(args.destination, session.xenops.queue)
    return session.finish(session.xenops.VM.migrate(machine.vm.id, queue, compress=args.compress), machine)


def destination(text: str, ours: str) -> str:
    """The queue of a xenopsd: in full, or HOST or HOST.INSTANCE, named as ours where none is; `localhost` is that one."""
    if text == "localhost" or text.startswith("xenops."):
        return text
    host, _, instance = text.partition(".")
    return f"xenops.{host}.{instance or ours.rpartition('.')[2]}"


def migrate_resolve(session: Session) -> None:
    """Say what becomes of a machine whose destination does not come back."""
    machine = session.machine(session.args.vm)
    session.xenops.VM.migrate_resolve(machine.vm.id, keep=session.args.keep)


DESTINATION = argument(
    "destination", metavar="DEST", help="HOST, HOST.INSTANCE, or a queue as `xenops-cli where` says it there"
)
IMAGE = argument(
    "--block-device", "--file", dest="image", metavar="PATH", required=True, help="where its memory is kept"
)
TIMEOUT = argument(
    "--timeout", type=seconds, metavar="S", help="stop cleanly, the guest having S seconds; without it, pull the plug"
)
PAUSED = argument("--paused", action="store_true", help="leave it Paused")
START = (
    PAUSED,
    argument("--console", action="store_true", help="stay on its console; Ctrl-] leaves"),
    argument("--force", action="store_true", help="do not check that the host has memory enough"),
)


def _delay(session: Session) -> dict[str, Any]:
    return {"delay": session.args.timeout}


COMMANDS: tuple[Command, ...] = (
    Command(
        name="start",
        help="Start a machine; it ends Running.",
        arguments=(MACHINE, *START, NO_WAIT),
        run=start,
        show=task_id,
    ),
    Command(
        name="shutdown",
        help="Stop a machine: at once, or cleanly within --timeout.",
        arguments=(
            MACHINE,
            TIMEOUT,
            argument("--force", action="store_true", help="power off a guest that does not stop in time"),
            NO_WAIT,
        ),
        run=shutdown,
        show=task_id,
    ),
    on_machine("reboot", VM.reboot, TIMEOUT, params=_delay),
    on_machine("destroy", VM.shutdown, help="Stop a machine at once, as `shutdown` without a timeout; the word of xl."),
    on_machine("pause", VM.pause),
    on_machine("unpause", VM.unpause),
    on_machine("suspend", VM.suspend, IMAGE, params=image),
    on_machine(
        "resume",
        VM.resume,
        IMAGE,
        PAUSED,
        params=image_and_paused,
        help="Bring a suspended machine back; it ends Running.",
    ),
    Command(
        name="migrate",
        help="Move a running machine to another host; exactly one of the two ends with it, whatever happens.",
        arguments=(
            MACHINE,
            DESTINATION,
            argument("--compress", action="store_true", help="compress its memory on the way, for slow links"),
            NO_WAIT,
        ),
        run=migrate,
        show=task_id,
    ),
    Command(
        name="migrate-resolve",
        help="Decide about a machine that was given to a host that does not come back (GivenTo in `show`).",
        arguments=(
            MACHINE,
            argument(
                "--keep",
                action="store_true",
                help="that host is dead, and the guest goes on here; if it lives, the guest runs twice. Without: forget it here",
            ),
        ),
        run=migrate_resolve,
    ),
    on_machine("checkpoint", VM.checkpoint, IMAGE, params=image),
    on_machine("fast-resume", VM.fast_resume),
    on_machine("vcpu-set", VM.set_vcpus, argument("n", type=count, metavar="N"), params=lambda s: {"n": s.args.n}),
    on_machine(
        "mem-set",
        VM.set_memory_dynamic_range,
        argument("memory", type=size, metavar="SIZE", help="in MiB, or with a unit: 512M, 2G"),
        argument("max", type=size, metavar="MAX", nargs="?", help="the upper bound, where it is not the same"),
        params=memory,
        help="How much memory the guest has: one size, or the bounds between which it may be ballooned.",
    ),
    on_machine(
        "delay",
        VM.delay,
        argument("seconds", type=seconds, metavar="SECONDS"),
        params=lambda s: {"seconds": s.args.seconds},
    ),
)
