# SPDX-License-Identifier: Apache-2.0
"""A stack whose xenopsd can be made to end without warning at any step, and a client of it that knows no fear."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from deploy.local.stack import Part, Stack
from xenops import wire
from xenops.bus.port import Message
from xenops.client import Xenops, connect
from xenops.derive.catalogue import all_methods
from xenops.errors import Busy, ServiceFault
from xenops.idl import Method
from xenops.rpc import request
from xenops.types.task import Pending, Task
from xenops.types.vm import VmState
from xenopsd.store.machine import Machine

TOP = Path(__file__).parents[3]
DEATH_S = 300.0  # for an emulated host that works towards it
METHODS = {method.wire: method for method in all_methods()}


@dataclass
class MortalStack(Stack):
    """A stack without viewers, whose xenopsd is the mortal one of that module."""

    module: str = "tests.xenopsd.kill.mortal"

    def _parts(self) -> list[Part]:
        program = self.var / "xenopsd-mortal"
        program.write_text(
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(TOP)!r})\n"
            f"from {self.module} import main\nraise SystemExit(main())\n"
        )
        program.chmod(0o700)
        parts = [part for part in super()._parts() if part.program != "vncproxy"]
        return [replace(part, program=str(program)) if part.program == "xenopsd" else part for part in parts]

    @property
    def xenopsd(self) -> asyncio.subprocess.Process:
        """The process."""
        return next(process for part, process in self.running if part.program.endswith("xenopsd-mortal"))


class Lab:
    """The stack, and what is asked of it. A backend's own part is below: what the host holds."""

    def __init__(self, stack: MortalStack, xenops: Xenops, folder: Path) -> None:
        self.stack, self.xenops, self.folder = stack, xenops, folder
        self._asked = 0

    async def look(self) -> frozenset[str]:
        """All that the host holds, one line for each thing."""
        host = await self.xenops.HOST.stat()
        return frozenset({f"free memory {host.memory_free}"})

    async def changes(self, before: frozenset[str]) -> list[str]:
        """What differs from before, once it differs no more or does so for good."""
        now = await self.look()
        return [f"- {line}" for line in sorted(before - now)] + [f"+ {line}" for line in sorted(now - before)]

    async def up(self, machine: Machine, *, answers: bool) -> None:
        """Wait until the guest runs, and, when it has to answer, can."""

    async def adopted(self, machine: Machine, state: VmState) -> None:
        """The domain is seen from the side as xenopsd tells of it."""

    async def ask_and_die(self, method: str, args: tuple[Any, ...], words: str) -> str | None:
        """Ask for what xenopsd does not survive, and start it again: the task's id, or none when it survived."""
        self._asked += 1
        message = request(METHODS[method], args, {}, debug_info=words)
        message.message_id = f"mortal-{words}-{self._asked}"
        asking = asyncio.create_task(self.xenops.bus.call(self.xenops.queue, message, timeout_s=DEATH_S))
        survived = asyncio.create_task(self._survived(asking))
        dying = asyncio.create_task(self.stack.xenopsd.wait())
        async with asyncio.timeout(DEATH_S):
            await asyncio.wait((survived, dying), return_when=asyncio.FIRST_COMPLETED)
        try:
            if not dying.done():
                return None
            assert dying.result() == -signal.SIGKILL, f"xenopsd ended with {dying.result()}"
            await self.revive()
            return str(await self._answer(message))
        finally:
            for each in (survived, asking, dying):
                each.cancel()
            await asyncio.gather(survived, asking, dying, return_exceptions=True)

    async def ask_until_answered(self, method: str, args: tuple[Any, ...], words: str) -> str:
        """Ask for an operation with one message id until it is answered; its task's id."""
        self._asked += 1
        message = request(METHODS[method], args, {}, debug_info=words)
        message.message_id = f"cut-{words}-{self._asked}"
        return str(await self._answer(message))

    async def revive(self) -> None:
        """Start the next life."""
        [dead] = [one for one in self.stack.running if one[1] is self.stack.xenopsd]
        self.stack.running.remove(dead)
        await self.stack.start_again(dead[0])

    async def ask(self, method: str, args: tuple[Any, ...]) -> str:
        """Ask for an operation; its task's id."""
        message = request(METHODS[method], args, {})
        return str(
            wire.decode_result((await self.xenops.bus.call(self.xenops.queue, message, timeout_s=30.0)).body, str)
        )

    async def ended(self, task: str) -> Task:
        """A task once it has."""
        while isinstance((found := await self.xenops.Task.wait(task, timeout=30.0)).state, Pending):
            continue
        return found

    async def answered(self, message: Message, method: Method) -> Any:
        """The result of a request that is asked until somebody answers it."""
        while True:
            try:
                return wire.decode_result(
                    (await self.xenops.bus.call(self.xenops.queue, message, timeout_s=30.0)).body, method.result
                )
            except (ServiceFault, Busy):
                await asyncio.sleep(0.02)

    async def _survived(self, asking: "asyncio.Task[Any]") -> None:
        task = wire.decode_result((await asking).body, str)
        await self.ended(task)

    async def _answer(self, message: Message) -> Any:
        """The task's id, when it is asked again, by whoever lives now."""
        return await self.answered(message, METHODS["VM.start"])


@asynccontextmanager
async def running(stack: MortalStack) -> AsyncIterator[Xenops]:
    """The stack at work, and a client of it."""
    found = await stack.start()
    try:
        async with connect(url=found.amqp, queue=found.queue, timeout_s=120.0) as xenops:
            yield xenops
    finally:
        await stack.stop()
