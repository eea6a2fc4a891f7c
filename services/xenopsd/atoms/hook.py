# SPDX-License-Identifier: Apache-2.0
"""Steps of the host's administrator: executables in `<hooks-dir>/<hook>/`, run in order of their names."""

import asyncio
import logging
import os
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import ClassVar

from xenops.errors import HookFailed
from xenops.types.process import Program
from xenops.types.vm import Vm
from xenopsd.atoms.context import Context
from xenopsd.engine.plan import Atom

log = logging.getLogger(__name__)


class Hook(Enum):
    """The moments at which hooks run; the values are the folders' names."""

    PRE_START = "vm-pre-start"
    PRE_SHUTDOWN = "vm-pre-shutdown"
    POST_DESTROY = "vm-post-destroy"
    PRE_REBOOT = "vm-pre-reboot"
    PRE_SUSPEND = "vm-pre-suspend"
    PRE_RESUME = "vm-pre-resume"
    POST_RESUME = "vm-post-resume"
    PRE_MIGRATE = "vm-pre-migrate"
    POST_MIGRATE = "vm-post-migrate"


class Reason(Enum):
    """Why; the values are what hooks are told after `-reason`."""

    NONE = "none"
    CLEAN_SHUTDOWN = "clean-shutdown"
    HARD_SHUTDOWN = "hard-shutdown"
    CLEAN_REBOOT = "clean-reboot"
    HARD_REBOOT = "hard-reboot"
    SUSPEND = "suspend"
    SOURCE = "source"
    DESTINATION = "destination"


@dataclass(frozen=True)
class Run(Atom):
    """Run a hook's programs: exit 0 is fine, 1 is logged, anything else stops the operation."""

    patience_s: ClassVar[float] = 0.0
    timeout_s: ClassVar[float] = 86400.0  # each program has its own limit
    hook: Hook
    vm: Vm
    reason: Reason = Reason.NONE

    async def do(self, cx: Context) -> None:
        folder = cx.limits.hooks_dir / self.hook.value
        programs = await asyncio.to_thread(_executables, folder) if folder.is_dir() else []
        if not programs:
            return
        told = ["-vmuuid", self.vm.id, "-reason", self.reason.value, *await cx.backend.vm.hook_arguments(self.vm)]
        for path in programs:
            program = Program(argv=[str(path), *told], env={"PATH": os.defpath}, timeout_s=cx.limits.hook_s)
            ended = await cx.run_program(program)
            if ended.code == 0:
                continue
            words = ended.stdout.decode("utf-8", "replace")[-2000:]
            if ended.code == 1:
                log.warning("the hook %s ended with code 1; going on. It said: %s", path, words)
                continue
            raise HookFailed(str(path), self.reason.value, words, ended.code if isinstance(ended.code, int) else -1)

    @property
    def about(self) -> str:
        reason = "" if self.reason is Reason.NONE else f" ({self.reason.value})"
        return f"{self.hook.value}{reason}"


def _executables(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_file() and os.access(path, os.X_OK))
