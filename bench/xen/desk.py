# SPDX-License-Identifier: Apache-2.0
"""Where both toolstacks are at hand: our stack as separate processes with a client and a command line, xl beside it.

Every guest here is described once, as an xl configuration that both read.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from deploy.local.stack import Stack
from tests.xen import guests
from xenops.client import Xenops, connect
from xenops.errors import Fault

CLI = Path(sys.executable).parent / "xenops-cli"
PATIENCE_S = 300.0
Timed = Callable[[], Awaitable[float]]


class Row(NamedTuple):
    """One comparison: medians of ours and of the peer's, and the median of the ratios of neighbours in time."""

    name: str
    unit: str
    ours: float
    peer: float | None
    ratio: float | None
    aim: str


@dataclass
class Desk:
    """The stack, a client of it, and a folder for configurations and images."""

    stack: Stack
    xenops: Xenops
    folder: Path

    def config(self, name: str, **keys: object) -> Path:
        """An xl configuration."""
        path = self.folder / f"{name}.cfg"
        path.write_text("".join(f"{key} = {value!r}\n" for key, value in {"name": name, **keys}.items()))
        return path

    def linux(self, name: str, kind: str, kernel: Path, **keys: object) -> Path:
        """Debian's kernel with a small ramdisk."""
        memory = guests.LINUX_MEMORY_MIB if kind == "pv" else guests.LINUX_PVH_MEMORY_MIB
        return self.config(
            name,
            type=kind,
            kernel=str(kernel),
            ramdisk=str(guests.LINUX_INITRAMFS),
            extra=guests.LINUX_CMDLINE,
            memory=memory,
            vcpus=1,
            **keys,
        )

    def grub(self, name: str, **keys: object) -> Path:
        """A guest of 32 MiB."""
        return self.config(name, type="pv", kernel=str(guests.GRUB_PV), memory=guests.GRUB_MEMORY_MIB, vcpus=1, **keys)

    def image(self, name: str, mib: int = 4) -> Path:
        """A raw disk, empty."""
        path = self.folder / name
        with path.open("wb") as file:
            file.truncate(mib << 20)
        return path

    def disks(self, name: str, count: int) -> list[str]:
        """That many drives, as a configuration lists them."""
        return [f"{self.image(f'{name}-{n}.img')},raw,xvd{chr(ord('a') + n)},rw" for n in range(count)]

    async def cli(self, *words: str) -> str:
        """A command of ours, as a process."""
        return await run(str(CLI), *words, environment={**os.environ, "XENOPS_WHERE": str(self.stack.where_file)})

    async def done(self, asked: Awaitable[str]) -> None:
        """What was asked for is."""
        await self.xenops.finished(await asked)

    async def add(self, config: Path) -> str:
        """Register it with us; its id."""
        await self.cli("add", str(config))
        return next(stat.vm.id for stat in await self.xenops.VM.list() if stat.vm.name == config.stem)

    async def start(self, vm: str, *, paused: bool = False) -> None:
        await self.done(self.xenops.VM.start(vm, paused=paused))

    async def shutdown(self, vm: str) -> None:
        await self.done(self.xenops.VM.shutdown(vm))

    async def tidy(self) -> None:
        """Nothing of ours is left, whatever happened."""
        for stat in await self.xenops.VM.list():
            with suppress(Fault):
                await self.shutdown(stat.vm.id)
            with suppress(Fault):
                await self.xenops.VM.remove(stat.vm.id)
        for name in await names():
            await xl("destroy", name)


async def run(*words: str, environment: dict[str, str] | None = None) -> str:
    """A program that must succeed; what it printed."""
    process = await asyncio.create_subprocess_exec(
        *words, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await asyncio.wait_for(process.communicate(), PATIENCE_S)
    if process.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}: {err.decode()}{out.decode()}")
    return out.decode()


async def xl(*words: str) -> str:
    """Xen's own tool."""
    return await run("xl", *words)


async def names() -> list[str]:
    """The guests that xl sees."""
    return [line.split()[0] for line in (await xl("list")).splitlines()[2:]]


async def seconds(work: Awaitable[object]) -> float:
    """How long it took."""
    began = time.perf_counter()
    await work
    return time.perf_counter() - began


async def paired(name: str, unit: str, ours: Timed, peer: Timed, *, runs: int, aim: str = "") -> Row:
    """In turn; the median of each, and of the ratios of each pair."""
    pairs = [(await ours(), await peer()) for _ in range(runs)]
    return row(name, unit, pairs, aim=aim)


def row(name: str, unit: str, pairs: Sequence[tuple[float, float]], *, aim: str = "") -> Row:
    """What pairs of measurements come to."""
    a, b = (statistics.median(side) for side in zip(*pairs, strict=True))
    found = Row(name, unit, a, b, statistics.median(x / y for x, y in pairs), aim)
    print(f"{name:<58} {a:>9.3f} {b:>9.3f} {unit:<4} {found.ratio:>6.2f}  {aim}", flush=True)
    return found


def alone(name: str, unit: str, value: float, aim: str = "") -> Row:
    """What has no peer."""
    print(f"{name:<58} {value:>9.3f} {'':>9} {unit:<4} {'':>6}  {aim}", flush=True)
    return Row(name, unit, value, None, None, aim)


@asynccontextmanager
async def desk(folder: Path, *, helpers: int = 2) -> AsyncIterator[Desk]:
    """A stack that serves, as long as the block lasts."""
    flags = (f"--xen-run-dir={folder / 'run'}", f"--xen-helpers={helpers}")
    stack = Stack(
        folder / "var", log_to=folder / "stack.log", backend="xen", ready_s=180.0, log_level="warning", further=flags
    )
    found = await stack.start()
    try:
        async with connect(url=found.amqp, queue=found.queue, timeout_s=PATIENCE_S) as xenops:
            at_hand = Desk(stack, xenops, folder)
            try:
                yield at_hand
            finally:
                await at_hand.tidy()
    finally:
        await stack.stop()
