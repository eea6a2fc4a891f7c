# SPDX-License-Identifier: Apache-2.0
"""How a QEMU gets from a command line to being ready: run by forkexecd until it is in the background, then awaited.

Nothing is taken back here when that fails: whoever asked does so.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from xenops.errors import FailedToStartEmulator, Fault, StepTimedOut
from xenops.sockets import connected
from xenops.types.process import Program
from xenops.types.vm import Vm
from xenopsd.backends.xen.devicemodel import nodes
from xenopsd.backends.xen.devicemodel.places import Places
from xenopsd.backends.xen.devicemodel.rooms import Host
from xenopsd.backends.xen.devicemodel.running import Running
from xenopsd.backends.xen.devicemodel.words import Words, printable

log = logging.getLogger(__name__)

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

_SEEN_S = 0.5  # what it leaves behind goes a moment before it is seen to have ended

CommandLine = Callable[[bool], list[str]]  # with a sandbox, or without


class Launch:
    """Starts QEMUs; each may take `start_s` into the background, and as long again until it is ready."""

    def __init__(self, world: Host, start_s: float) -> None:
        self._world, self._start_s = world, start_s
        self._sandbox = True  # until a QEMU says that it has none

    def program(self, vm: Vm) -> Path:
        """Which one. Raises `FailedToStartEmulator`."""
        program = self._world.programs.get("qemu")
        if program is None:
            raise FailedToStartEmulator(vm.id, "qemu", "there is none on this host; apt install qemu-system-xen")
        return program

    async def run(self, vm: Vm, command_line: CommandLine, words: Words) -> None:
        """Until it is in the background. Raises `FailedToStartEmulator`, with what it said last, wherever it said it."""
        program = self.program(vm)
        ended = await self._world.run_program(self._described(program, command_line(self._sandbox)))
        if ended.code != 0 and self._sandbox and b"-sandbox" in ended.stderr:
            log.warning("%s was built without a sandbox: it may call whatever its user may", program)
            self._sandbox = False
            ended = await self._world.run_program(self._described(program, command_line(False)))
        if ended.timed_out:
            raise FailedToStartEmulator(vm.id, str(program), f"it did not come up within {self._start_s:g} s")
        if ended.code != 0:
            how = f"it was killed by signal {ended.signal}" if ended.signal else f"it ended with code {ended.code}"
            raise FailedToStartEmulator(vm.id, str(program), f"{how}: {printable(ended.stderr) or _last(words)}")

    async def ready(self, vm: Vm, running: Running, restoring_state: Path | None) -> None:
        """Until it says so. Raises `FailedToStartEmulator` as soon as it ends, or when the time is up."""
        path = nodes.state(running.domid)

        async def settled() -> None:
            if restoring_state is not None:
                await _hand_over(running.places, restoring_state)
            await self._world.xs.wait_for([path], lambda values: values[path] == "running", self._start_s)

        waiting, ending = asyncio.create_task(settled()), asyncio.create_task(running.process.ended.wait())
        try:
            await asyncio.wait((waiting, ending), return_when=asyncio.FIRST_COMPLETED)
            if ending.done():
                raise self._failed(vm, "it ended by itself", running)
            waiting.result()
        except (StepTimedOut, OSError) as error:
            raise self._failed(vm, str(error), running) from error
        finally:
            waiting.cancel()
            ending.cancel()
            await asyncio.gather(waiting, ending, return_exceptions=True)

    @asynccontextmanager
    async def alive(self, vm: Vm, running: Running) -> AsyncIterator[None]:
        """What fails because QEMU ended meanwhile fails for that reason. Raises `FailedToStartEmulator`."""
        try:
            yield
        except Fault as fault:
            if await running.process.ends(_SEEN_S):
                raise self._failed(vm, "it ended by itself", running) from fault
            raise

    def _failed(self, vm: Vm, how: str, running: Running) -> FailedToStartEmulator:
        return FailedToStartEmulator(vm.id, str(self.program(vm)), f"{how}: {_last(running.words)}")

    def _described(self, program: Path, words: list[str]) -> Program:
        return Program(argv=[str(program), *words], env={"PATH": _PATH, "LC_ALL": "C"}, timeout_s=self._start_s)


def _last(words: Words) -> str:
    return words.last or "without a word"


async def _hand_over(places: Places, state: Path) -> None:
    """Give a QEMU that restores its state."""
    untrusted = await asyncio.to_thread(state.read_bytes)
    _, writer = await asyncio.open_unix_connection(sock=await connected(places.incoming))
    try:
        writer.write(untrusted)
        await writer.drain()
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()
    await asyncio.to_thread(state.unlink, missing_ok=True)
