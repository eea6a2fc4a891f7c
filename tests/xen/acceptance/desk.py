# SPDX-License-Identifier: Apache-2.0
"""Where an operator sits: the whole stack as five processes, its command line, and the folder with the configurations."""

import asyncio
import importlib.util
import json
import os
import socket
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from tests.xen import guests
from tests.xen.acceptance.command_line import CommandLine, Said

TOP = Path(__file__).parents[3]
Story = Callable[["Desk"], Awaitable[None]]
PATIENCE_S = 120  # for what a guest does by itself


def stack_module() -> Any:
    """deploy/local/stack.py, which is no module of a package."""
    if "stack" not in sys.modules:
        spec = importlib.util.spec_from_file_location("stack", TOP / "deploy" / "local" / "stack.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules["stack"] = module
        spec.loader.exec_module(module)
    return sys.modules["stack"]


class Desk:
    """The operator's place."""

    def __init__(self, stack: Any, folder: Path, commands: CommandLine) -> None:
        self.stack, self.folder, self._commands = stack, folder, commands

    async def try_to(self, *words: str) -> Said:
        """A command of xenops-cli, whatever becomes of it."""
        return await self._commands.run(*words, where=self.stack.where_file)

    async def say(self, *words: str) -> str:
        """A command that must succeed; what it printed."""
        said = await self.try_to(*words)
        assert said.status == 0, f"xenops-cli {' '.join(words)}: {said.status} {said.err}"
        return said.out

    async def refused(self, *words: str) -> str:
        """A command that must fail; what it complained of."""
        said = await self.try_to(*words)
        assert said.status not in (0, -1), f"xenops-cli {' '.join(words)} succeeded: {said.out}"
        assert "unexpected" not in said.err
        return said.err

    async def ask(self, *words: str) -> Any:
        """The same as data."""
        return json.loads(await self.say(*words, "--json"))

    async def state(self, name: str) -> dict[str, Any]:
        """What a machine is."""
        state: dict[str, Any] = (await self.ask("vm-stat", name))["state"]
        return state

    async def domid(self, name: str) -> int:
        """The one domain of a machine that runs."""
        [domid] = (await self.state(name))["domids"]
        return int(domid)

    async def call(self, method: str, name: str, **arguments: Any) -> None:
        """A method of the interface that has no word of its own; it must complete."""
        id = (await self.ask("vm-stat", name))["vm"]["id"]
        task = json.loads(await self.say("api", method, json.dumps({"id": id, **arguments})))
        await self.say("task-wait", task)

    async def until(self, name: str, *, within_s: float = PATIENCE_S, **wanted: Any) -> dict[str, Any]:
        """The machine's state as soon as it is so."""
        return await self._until(
            name, lambda state: all(state[key] == value for key, value in wanted.items()), within_s=within_s
        )

    async def until_other(self, name: str, domid: int) -> dict[str, Any]:
        """The machine's state as soon as it runs in another domain."""
        return await self._until(
            name, lambda state: state["power_state"] == "Running" and state["domids"] not in ([], [domid])
        )

    async def _until(
        self, name: str, holds: Callable[[dict[str, Any]], bool], *, within_s: float = PATIENCE_S
    ) -> dict[str, Any]:
        """Told by its events, and not looked at in between."""
        async with asyncio.timeout(within_s):
            token = json.loads(await self.say("api", "UPDATES.last_id", "{}"))
            while True:
                state = await self.state(name)
                if holds(state):
                    return state
                question = json.dumps({"last_id": token, "timeout": 30})
                token = json.loads(await self.say("api", "UPDATES.get", question))["token"]

    async def up(self, name: str, marker: str = guests.LINUX_UP) -> None:
        """Until the guest has said so on its console."""
        await self.say("console", name, "--expect", marker, "--timeout", str(PATIENCE_S))

    async def screen(self, name: str) -> bytes:
        """The greeting of a machine's screen, through vncproxy."""
        viewed = await self.ask("console", "--vnc", name)
        return await asyncio.to_thread(_greeting, viewed["host"], viewed["port"])

    def config(self, name: str, **keys: Any) -> str:
        """An xl configuration."""
        path = self.folder / f"{name}.cfg"
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in {"name": name, **keys}.items()))
        return str(path)

    def linux(self, name: str, kind: str = "pv", *words: str, **keys: Any) -> str:
        """That of the Linux guest."""
        memory = guests.LINUX_MEMORY_MIB if kind == "pv" else guests.LINUX_PVH_MEMORY_MIB
        settings = {"kernel": str(guests.LINUX_ELF), "ramdisk": str(guests.LINUX_INITRAMFS), "memory": memory}
        return self.config(
            name, type=kind, extra=" ".join((guests.LINUX_CMDLINE, *words)), vcpus=1, **{**settings, **keys}
        )

    def image(self, name: str, content: bytes = b"", *, size: int = 4 << 20) -> str:
        """A raw disk of a few megabytes."""
        path = self.folder / name
        with path.open("wb") as file:
            file.write(content)
            file.truncate(max(size, len(content)))
        return str(path)


class Office:
    """A stack that serves several stories, in a thread of its own."""

    def __init__(self, folder: Path) -> None:
        self.log = folder / "stack.log"
        self._commands = CommandLine(folder)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._stack = stack_module().Stack(
            folder / "var",
            log_to=self.log,
            backend="xen",
            ready_s=180.0,
            further=(f"--xen-run-dir={folder / 'run'}", "--xen-helpers=1", "--xen-minimum-reboot-delay=0"),
        )
        self._do(self._stack.start())

    def tell(self, story: Story, folder: Path) -> None:
        """A story that is told there; what its machines are called is free again afterwards."""
        desk = Desk(self._stack, folder, self._commands)

        async def told() -> None:
            try:
                await story(desk)
            finally:
                for machine in await desk.ask("list"):
                    await desk.try_to("destroy", machine["vm"]["id"])
                    await desk.say("remove", machine["vm"]["id"])

        try:
            self._do(told())
        finally:
            os.link(self.log, folder / "stack.log")  # where a failure's traces are looked for

    def close(self) -> None:
        """All of it ends."""
        self._do(self._stack.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        self._commands.close()

    def _do(self, work: Any) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result()


def _greeting(host: str, port: int) -> bytes:
    with socket.create_connection((host, port), 30) as viewer:
        viewer.settimeout(30)
        greeting = viewer.recv(12)
        viewer.sendall(greeting)
        while len(greeting) < 14:  # how many kinds of security there are, and the first
            received = viewer.recv(64)
            assert received, greeting
            greeting += received
        return greeting
