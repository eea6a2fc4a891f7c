# SPDX-License-Identifier: Apache-2.0
"""What a step is given to work with."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from xenops.events import Change, Kind
from xenops.types.process import Ended, Program
from xenopsd.backends.port import Backend
from xenopsd.engine.tasks import Task
from xenopsd.migration.station import Station
from xenopsd.store.machines import Machines


@dataclass(frozen=True)
class Limits:
    """How long, in seconds, things may take and how often they may happen; from the configuration."""

    shutdown_ack_s: float = 60.0
    hook_s: float = 600.0
    reboot_loop_delay_s: float = 15.0
    crash_dir: Path = Path("/var/lib/xenopsd/crash")
    hooks_dir: Path = Path("/etc/xenopsd/hooks.d")


@dataclass(frozen=True)
class Context:
    """One task's view of the world."""

    task: Task
    backend: Backend
    machines: Machines
    migration: Station
    limits: Limits
    announce: Callable[[Kind, str, Change], None]  # something changed
    run_program: Callable[[Program], Awaitable[Ended]]  # through forkexecd
    observe: Callable[[str, float], None]

    def changed(self, kind: Kind, id: str) -> None:
        """Announce a change of an object that was there before."""
        self.announce(kind, id, Change.CHANGED)
