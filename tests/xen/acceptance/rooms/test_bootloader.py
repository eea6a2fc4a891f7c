# SPDX-License-Identifier: Apache-2.0
"""pygrub in a real control domain: without privileges, on a file and on a block device, and nothing left of it."""

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from forkexecd.metrics import Metrics
from forkexecd.posix import Guard
from forkexecd.runner import Runner
from tests.xen import guests
from xenops.errors import BootloaderError
from xenops.types.disk import Local
from xenops.types.ids import DeviceId
from xenops.types.metadata import Metadata
from xenops.types.process import Ended, Program
from xenops.types.vbd import Vbd
from xenops.types.vm import Indirect, Pv, Vm
from xenopsd.backends.xen.devices import loop
from xenopsd.backends.xen.domain.bootloader import booting


class Guests:
    """One domain."""

    def require(self, vm: str) -> int:
        return 4242


@dataclass
class Host:
    """As much of a world as a boot loader sees."""

    state_dir: Path
    runner: Runner
    domains: Guests = field(default_factory=Guests)
    programs: dict[str, Path] = field(default_factory=lambda: {"pygrub": Path("/usr/lib/xen-4.17/bin/pygrub")})
    argv: list[str] = field(default_factory=list)

    async def run_program(self, program: Program) -> Ended:
        self.argv = program.argv
        return await self.runner.run(program)


def machine(path: str) -> Metadata:
    disk = Vbd(id=DeviceId(vm="guest", dev="0"), position="xvda", backend=Local(path=path))
    boot = Indirect(bootloader="pygrub", extra_args="quiet")
    return Metadata(vm=Vm(id="guest", ty=Pv(boot=boot)), vbds=[disk])


@pytest.mark.parametrize("kind", ["file", "block device", "empty"])
def test_the_kernel_is_found_by_a_user_without_rights(tmp_path: Path, kind: str) -> None:
    empty = tmp_path / "empty.img"
    empty.write_bytes(bytes(1 << 20))

    async def boot(world: Host, path: str) -> None:
        async with booting(world, machine(path)) as found:
            with found.kernel.open("rb") as kernel:
                kernel.seek(0x202)
                assert kernel.read(4) == b"HdrS"  # a bzImage
            assert found.ramdisk is not None
            assert found.cmdline.endswith("quiet")
        assert any(word.startswith("--runas=") for word in world.argv)
        assert not Path(world.argv[-1]).exists()

    async def scenario() -> None:
        guard = Guard()
        world = Host(tmp_path / "state", Runner(guard, Metrics(CollectorRegistry())))
        try:
            if kind == "file":
                await boot(world, str(guests.PYGRUB_DISK))
            elif kind == "block device":
                held = await loop.attach(str(guests.PYGRUB_DISK), read_only=True)
                try:
                    await boot(world, held.path)
                finally:
                    held.close()
            else:
                with pytest.raises(BootloaderError, match="Unable to find partition containing kernel"):
                    await boot(world, str(empty))
            assert list((world.state_dir / "boot").iterdir()) == []
        finally:
            await world.runner.close()
            guard.close()

    asyncio.run(scenario())
