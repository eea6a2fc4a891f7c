# SPDX-License-Identifier: Apache-2.0
"""What an action has in its hands: the arguments, the bus, a way to name a machine and a way to wait for a task."""

import contextlib
import re
import signal
import time
from argparse import Namespace
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, NamedTuple, TextIO

from msgspec import Struct

from xenops.blocking import BlockingXenops
from xenops.errors import DoesNotExist, Fault
from xenops.idl import Interface
from xenops.types.ids import DeviceId
from xenops.types.record import UNSET, Maybe
from xenops.types.vm import VmStat
from xenops_cli.interrupts import Interrupts, Stopped
from xenops_cli.progress import Bar
from xenops_cli.selection import pick, split_device

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


class Stack(NamedTuple):
    """Whom a command talks to: xenopsd, and, on an event loop, also vncproxy (`xenops_cli.console.talk`)."""

    xenops: BlockingXenops
    consoles: Callable[[], AbstractAsyncContextManager[Any]]


Connect = Callable[[Namespace], AbstractContextManager[Stack]]


class Done(Struct, frozen=True, kw_only=True):
    """What became of a request that is a task: its id, its result, and how long it took if it was waited for."""

    task: str
    vm: Maybe[str] = UNSET
    state: str = "Pending"
    duration_s: Maybe[float] = UNSET
    result: Any = None


class Session:
    """One run of one command; `errors` is where everything goes that is not its result."""

    def __init__(self, args: Namespace, stack: Stack | None, interrupts: Interrupts, errors: TextIO) -> None:
        self.args = args
        self.interrupts = interrupts
        self.errors = errors
        self._stack = stack

    @property
    def stack(self) -> Stack:
        """The bus; a command that says it is offline has none."""
        if self._stack is None:
            raise RuntimeError(f"{self.args.command} said that it needs no bus")
        return self._stack

    @property
    def xenops(self) -> BlockingXenops:
        """xenopsd."""
        return self.stack.xenops

    def namespace(self, interface: type[Interface]) -> Any:
        """The client of one interface."""
        return getattr(self.xenops, interface.name) if interface.name else self.xenops

    def note(self, sentence: str) -> None:
        """Tell a person something beside the result."""
        print(f"xenops-cli: {sentence}", file=self.errors, flush=True)

    def machine(self, text: str) -> VmStat:
        """The machine that `text` means."""
        if _UUID.fullmatch(text):  # what scripts use: no need to list a thousand machines
            with contextlib.suppress(DoesNotExist):  # it may still be somebody's name
                found: VmStat = self.xenops.VM.stat(text)
                return found
        return pick(self.xenops.VM.list(), text)

    def device(self, words: list[str]) -> tuple[VmStat, DeviceId]:
        """The machine and the device that `VM.DEV` or `VM DEV` means."""
        machine, name = split_device(self.xenops.VM.list(), words)
        return machine, DeviceId(vm=machine.vm.id, dev=name)

    def finish(self, task: str, machine: VmStat) -> Done:
        """Wait for a task, showing how far it is; with `--no-wait` only say which it is."""
        if self.args.no_wait:
            return Done(task=task, vm=machine.vm.id)
        return self.watch(task, machine)

    def watch(self, task: str, machine: VmStat) -> Done:
        """Wait for a task; Ctrl-C cancels it, and a second Ctrl-C leaves it to itself."""
        began = time.monotonic()
        with Bar(f"{self.args.command} {machine.vm.name}", self.errors) as bar:
            try:
                result = self.xenops.finished(task, on_progress=bar.progress)
            except Stopped as stopped:
                if stopped.number != signal.SIGINT:
                    raise
                self.note(f"cancelling the task {task}; Ctrl-C again leaves it to itself")
                with contextlib.suppress(Fault):  # asking was no use: what is waited for will say how it ended
                    self.xenops.Task.cancel(task)
                result = self.xenops.finished(task, on_progress=bar.progress)
        took_s = round(time.monotonic() - began, 3)
        return Done(task=task, vm=machine.vm.id, state="Completed", duration_s=took_s, result=result)
