# SPDX-License-Identifier: Apache-2.0
"""The whole stack on the real hypervisor, as an operator has it: five processes, one command line, xl beside it."""

import asyncio
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.xen import guests
from tests.xen.acceptance import xl

TOP = Path(__file__).parents[3]
CLI = Path(sys.executable).parent / "xenops-cli"
Story = Callable[["Desk"], Awaitable[None]]


def _stack_module() -> Any:
    spec = importlib.util.spec_from_file_location("stack", TOP / "deploy" / "local" / "stack.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["stack"] = module
    spec.loader.exec_module(module)
    return module


class Desk:
    """Where the operator sits."""

    def __init__(self, stack: Any, folder: Path) -> None:
        self.stack, self.folder = stack, folder

    async def say(self, *words: str) -> str:
        """A command of xenops-cli that must succeed; what it printed."""
        process = await asyncio.create_subprocess_exec(
            str(CLI),
            *words,
            env={**os.environ, "XENOPS_WHERE": str(self.stack.where_file)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 180)
        assert process.returncode == 0, f"xenops-cli {' '.join(words)}: {err.decode()}"
        return out.decode()

    async def ask(self, *words: str) -> Any:
        """The same, as data."""
        return json.loads(await self.say(*words, "--json"))

    async def state(self, name: str) -> dict[str, Any]:
        """What a machine is."""
        state: dict[str, Any] = (await self.ask("vm-stat", name))["state"]
        return state

    def config(self, name: str, **keys: Any) -> str:
        """An xl configuration."""
        path = self.folder / f"{name}.cfg"
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in {"name": name, **keys}.items()))
        return str(path)

    def image(self, name: str) -> str:
        """A raw disk of a few megabytes."""
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(4 << 20)
        return str(path)


@pytest.fixture
def tell(tmp_path: Path) -> Callable[[Story], None]:
    """Tell a story at the desk of a stack that runs."""

    def told(story: Story) -> None:
        async def run() -> None:
            stack = _stack_module().Stack(
                tmp_path / "var",
                log_to=tmp_path / "stack.log",
                backend="xen",
                ready_s=180.0,
                further=(f"--xen-run-dir={tmp_path / 'run'}", "--xen-helpers=1", "--xen-minimum-reboot-delay=0"),
            )
            await stack.start()
            try:
                await story(Desk(stack, tmp_path))
            finally:
                await stack.stop()

        asyncio.run(run())

    return told


def test_a_guests_whole_life(tell: Callable[[Story], None]) -> None:
    async def story(desk: Desk) -> None:
        config = desk.config(
            "linux",
            kernel=str(guests.LINUX_ELF),
            ramdisk=str(guests.LINUX_INITRAMFS),
            extra=guests.LINUX_CMDLINE,
            memory=guests.LINUX_MEMORY_MIB,
            vcpus=1,
            disk=[f"{desk.image('root.img')},raw,xvda,rw"],
            vif=[f"bridge={guests.BRIDGE}"],
        )
        await desk.say("add", config)
        await desk.say("start", "linux")
        state = await desk.state("linux")
        assert state["power_state"] == "Running"
        assert "linux" in await asyncio.to_thread(xl.names)
        await desk.say("console", "linux", "--expect", guests.LINUX_UP, "--timeout", "120")
        await desk.say("vbd-add", "--plug", "linux", f"file:{desk.image('more.img')},xvdb,w")
        assert all(each["state"]["plugged"] for each in await desk.ask("vbd-list", "linux"))
        await desk.say("vbd-unplug", "linux.xvdb")
        await desk.say("pause", "linux")
        assert (await desk.state("linux"))["power_state"] == "Paused"
        await desk.say("unpause", "linux")
        image = desk.folder / "memory"
        await desk.say("suspend", "linux", "--block-device", str(image))
        assert (await desk.state("linux"))["power_state"] == "Suspended"
        await desk.say("resume", "linux", "--block-device", str(image))
        assert (await desk.state("linux"))["power_state"] == "Running"
        await desk.say("shutdown", "linux", "--timeout", "60")
        assert (await desk.state("linux"))["power_state"] == "Halted"
        await desk.say("remove", "linux")

    tell(story)


def test_machines_live_through_the_death_of_xenopsd_and_others_are_left_alone(
    tell: Callable[[Story], None], tmp_path: Path
) -> None:
    async def story(desk: Desk) -> None:
        theirs = xl.config(tmp_path, "foreign", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB)
        with xl.domain(theirs, "-p") as foreign:
            before = await asyncio.to_thread(xl.store, "ls", f"/local/domain/{foreign}")
            # GRUB looks for keys without end: it gets a fifth of the processor.
            config = desk.config("grub", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB, cap=20)
            await desk.say("add", config)
            await desk.say("start", "grub")
            [domid] = (await desk.state("grub"))["domids"]
            part = await desk.stack.kill("xenopsd")
            await desk.stack.start_again(part)
            state = await desk.state("grub")
            assert (state["power_state"], state["domids"]) == ("Running", [domid])
            assert state["consoles"]
            assert [each["vm"]["name"] for each in await desk.ask("list")] == ["grub"]
            await desk.say("reboot", "grub")
            [again] = (await desk.state("grub"))["domids"]
            assert again != domid
            await desk.say("shutdown", "grub")
            await desk.say("remove", "grub")
            assert await asyncio.to_thread(xl.store, "ls", f"/local/domain/{foreign}") == before

    tell(story)
