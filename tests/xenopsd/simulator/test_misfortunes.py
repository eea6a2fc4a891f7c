# SPDX-License-Identifier: Apache-2.0
"""Misfortune on purpose: failures, latency and calls that are held, all decided by the seed."""

import asyncio
from typing import Any

import pytest

from xenops.errors import BadRequest, Fault, IoError, NotEnoughMemory
from xenops.types.vm import PowerState
from xenopsd.backends.simulator import Options, Simulator

from .conftest import a_machine


def test_a_call_fails_as_often_as_it_was_told(play: Any) -> None:
    async def run() -> None:
        async with play() as it:
            await it.backend.debug("fail", ["host.stat", "NotEnoughMemory", "2"])
            for _ in range(2):
                with pytest.raises(NotEnoughMemory):
                    await it.backend.host.stat()
            await it.backend.host.stat()

    asyncio.run(run())


def test_options_make_calls_fail_for_ever(play: Any) -> None:
    async def run() -> None:
        async with play(failures=["vm.create:IoError", "host.stat:IoError:1"]) as it:
            for _ in range(3):
                with pytest.raises(IoError):
                    await it.backend.vm.create(a_machine("vm"))
            assert it.backend.world.domains == {}, "a call that fails has done nothing"
            with pytest.raises(IoError):
                await it.backend.host.stat()
            await it.backend.host.stat()

    asyncio.run(run())


@pytest.mark.parametrize("fault", sorted(name for name in Fault.known if not name.endswith("Fault")))
def test_every_fault_can_be_injected(play: Any, fault: str) -> None:
    async def run() -> None:
        async with play() as it:
            await it.backend.debug("fail", ["host.stat", fault])
            with pytest.raises(Fault.known[fault]) as caught:
                await it.backend.host.stat()
            assert str(caught.value)

    asyncio.run(run())


def test_latency_takes_its_time(play: Any) -> None:
    async def run() -> None:
        async with play(latency=["host.stat:20-30"]) as it:
            loop = asyncio.get_running_loop()
            began = loop.time()
            await it.backend.host.stat()
            assert loop.time() - began >= 0.02
            await it.backend.debug("latency", ["host.stat", "0"])
            await it.backend.host.stat()

    asyncio.run(run())


def test_a_held_call_can_be_cancelled_and_has_done_nothing(play: Any) -> None:
    async def run() -> None:
        async with play() as it, asyncio.timeout(10):
            machine = a_machine("vm")
            await it.backend.debug("pause-call", ["vm.create"])
            first = asyncio.create_task(it.backend.vm.create(machine))
            await it.backend.gate.arrival("vm.create")
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            assert (await it.state(machine.vm)).power_state is PowerState.HALTED
            second = asyncio.create_task(it.backend.vm.create(machine))
            await it.backend.debug("release-call", ["vm.create"])
            await second
            assert (await it.state(machine.vm)).power_state is PowerState.PAUSED

    asyncio.run(run())


@pytest.mark.parametrize("seed", [0, 7])
def test_the_same_seed_brings_the_same_misfortunes(tmp_path: Any, seed: int) -> None:
    async def fates(folder: str, seed: int) -> list[bool]:
        backend = Simulator(tmp_path / folder, Options(seed=seed, failures=["host.stat:IoError:50%"]))
        lived = []
        for _ in range(64):
            try:
                await backend.host.stat()
            except IoError:
                lived.append(False)
            else:
                lived.append(True)
        await backend.stop()
        return lived

    first, again, other = (asyncio.run(fates(*args)) for args in (("a", seed), ("b", seed), ("c", seed + 1)))
    assert first == again != other


@pytest.mark.parametrize(
    "options",
    [
        {"failures": ["nonsense"]},
        {"failures": ["vm.nothing:IoError"]},
        {"latency": ["vm.create"]},
        {"latency": ["vm.create:soon"]},
        {"guest": "sulks"},
    ],
)
def test_options_that_mean_nothing_are_refused(tmp_path: Any, options: dict[str, Any]) -> None:
    with pytest.raises(BadRequest):
        Simulator(tmp_path, Options(**options))
