# SPDX-License-Identifier: Apache-2.0
"""The world outlives the daemon, however the daemon ends."""

import asyncio
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xenops.errors import FailedToSuspend, IoError
from xenops.types.disk import Local
from xenops.types.vm import Hvm, PowerState, Vm
from xenopsd.backends.simulator import Options, Simulator
from xenopsd.backends.simulator.world import image

_DAEMON = """
import asyncio, sys
from pathlib import Path
from xenops.types.metadata import Metadata
from xenops.types.vm import Hvm, Vm
from xenopsd.backends.simulator import Options, Simulator

async def main():
    backend = Simulator(Path(sys.argv[1]), Options())
    await backend.start(lambda kind, id: None)
    n = 0
    while True:
        machine = Metadata(vm=Vm(id=f"vm-{n}", ty=Hvm()))
        await backend.vm.create(machine)
        await backend.vm.build(machine, force=False)
        await backend.vm.create_device_model(machine, restoring=False)
        await backend.vm.set_action(machine.vm, None)
        await backend.vm.unpause(machine.vm)
        print(n, flush=True)
        n += 1

asyncio.run(main())
"""


def test_what_was_done_is_found_after_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _DAEMON, str(tmp_path)], stdout=subprocess.PIPE) as daemon:
        assert daemon.stdout is not None
        done = [int(daemon.stdout.readline()) for _ in range(30)]
        daemon.send_signal(signal.SIGKILL)
        done += [int(line) for line in daemon.stdout.read().split(b"\n")[:-1]]

    async def run() -> None:
        backend = Simulator(tmp_path, Options())
        await backend.start(lambda kind, id: None)
        states = await backend.vm.states([Vm(id=f"vm-{n}", ty=Hvm()) for n in done])
        assert {state.power_state for state in states} == {PowerState.RUNNING}
        assert all(Path(state.consoles[0].path).is_socket() for state in states)
        for vm in list(backend.world.domains):
            await backend.vm.destroy(Vm(id=vm, ty=Hvm()))
        assert backend.world.free_kib() == backend.world.memory_kib
        await backend.stop()

    asyncio.run(run())


def test_two_daemons_do_not_share_a_world(play: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with play() as it:
            await it.a_running_vm()
            with pytest.raises(IoError):
                Simulator(tmp_path / "state", Options())

    asyncio.run(run())


def test_domains_of_others_are_left_alone(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            await it.backend.debug("unmanaged", ["somebody-elses"])
            vm = await it.a_running_vm("somebody-elses")
            await it.backend.vm.destroy(vm)
            await it.backend.vm.destroy(vm)
            assert [domain.name for domain in it.backend.world.foreign.values()] == ["somebody-elses"]
        async with play() as it:
            assert [domain.held_kib for domain in it.backend.world.foreign.values()] == [64 * 1024]
            assert it.told == []

    asyncio.run(run())


def test_a_write_that_fails_wakes_the_guest(play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, domain: Any) -> int:
        raise IoError(str(path), "no space left on device")

    monkeypatch.setattr(image, "write", full)

    async def run() -> None:
        async def nothing() -> None:
            return

        async with play() as it:
            vm = await it.a_running_vm()
            with pytest.raises(IoError):
                await it.backend.vm.save(vm, Local(path=str(tmp_path / "m")), lambda done: None, nothing)
            assert (await it.state(vm)).power_state is PowerState.RUNNING
            await it.backend.vm.destroy(vm)
            assert (await it.state(vm)).power_state is PowerState.HALTED

    asyncio.run(run())


def test_a_save_that_is_cancelled_while_it_writes_wakes_the_guest(
    play: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writing, go_on = threading.Event(), threading.Event()
    write = image.write

    def slowly(path: Path, domain: Any) -> int:
        writing.set()
        assert go_on.wait(10)
        return write(path, domain)

    monkeypatch.setattr(image, "write", slowly)

    async def run() -> None:
        async def nothing() -> None:
            return

        async with play() as it, asyncio.timeout(10):
            vm = await it.a_running_vm()
            saving = asyncio.create_task(
                it.backend.vm.save(vm, Local(path=str(tmp_path / "m")), lambda done: None, nothing)
            )
            await asyncio.to_thread(writing.wait, 10)
            saving.cancel()
            go_on.set()
            with pytest.raises(asyncio.CancelledError):
                await saving
            assert (await it.state(vm)).power_state is PowerState.RUNNING
            await it.backend.vm.destroy(vm)
            assert (await it.state(vm)).power_state is PowerState.HALTED

    asyncio.run(run())


def test_a_domain_that_vanishes_while_it_is_saved_stays_gone(play: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async with play() as it:
            vm = await it.a_running_vm()

            async def die() -> None:
                await it.backend.debug("die", [vm.id])

            with pytest.raises(FailedToSuspend):
                await it.backend.vm.save(vm, Local(path=str(tmp_path / "m")), lambda done: None, die)
        async with play() as it:
            assert (await it.state(vm)).power_state is PowerState.HALTED

    asyncio.run(run())


def test_a_damaged_image_is_recognised(play: Any, tmp_path: Path) -> None:
    async def run() -> None:
        async def nothing() -> None:
            return

        async with play() as it:
            vm = await it.a_running_vm()
            await it.backend.vm.save(vm, Local(path=str(tmp_path / "m")), lambda done: None, nothing)

    asyncio.run(run())
    whole = (tmp_path / "m").read_bytes()
    assert image.parse(whole).name == "vm"
    assert image.parse(whole + b"left over") == image.parse(whole)
    for damaged in (b"", whole[:30], whole[:-1], whole[:60] + b"!" + whole[61:]):
        with pytest.raises(ValueError, match="image"):
            image.parse(damaged)


@given(st.binary(max_size=200), st.booleans())
def test_no_image_crashes_the_reader(untrusted_image: bytes, signed: bool) -> None:
    with pytest.raises(ValueError, match="image"):
        image.parse(image.SIGNATURE + untrusted_image if signed else untrusted_image)
