# SPDX-License-Identifier: Apache-2.0
"""Every row of the table of moves, played from every power state against the simulator."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from tests.xenopsd.daemon import power_state, with_daemon
from tests.xenopsd.machines import plain_vm
from xenops.client import Xenops
from xenops.errors import BadPowerState, Fault
from xenops.types.disk import Local
from xenops.types.vm import PowerState
from xenopsd.main import Daemon
from xenopsd.operations.life import MOVES

VM = "vm-1"


async def _bring(xenops: Xenops, image: Local, state: PowerState) -> None:
    """A machine in that state, registered just now; there is a memory image of it in any case."""
    await xenops.VM.add(plain_vm(VM))
    await xenops.finished(await xenops.VM.start(VM, paused=False))
    await xenops.finished(await xenops.VM.suspend(VM, image))
    await xenops.VM.remove(VM)
    await xenops.VM.add(plain_vm(VM))
    if state is PowerState.HALTED:
        return
    await xenops.finished(await xenops.VM.start(VM, paused=state is PowerState.PAUSED))
    if state is PowerState.SUSPENDED:
        await xenops.finished(await xenops.VM.suspend(VM, image))


def _asks(xenops: Xenops, operation: str, image: Local) -> list[Callable[[], Awaitable[str]]]:
    """The ways to ask for an operation, one for each state in which it may end."""
    method = getattr(xenops.VM, operation.removeprefix("VM."))
    match operation:
        case "VM.start":
            return [lambda: method(VM, paused=True), lambda: method(VM, paused=False)]
        case "VM.resume":
            return [lambda: method(VM, image, paused=True), lambda: method(VM, image, paused=False)]
        case "VM.suspend" | "VM.checkpoint":
            return [lambda: method(VM, image)]
        case _:
            return [lambda: method(VM)]


@pytest.mark.parametrize("state", PowerState, ids=lambda state: state.value)
@pytest.mark.parametrize("operation", MOVES)
def test_a_machine_ends_where_the_table_says(operation: str, state: PowerState, tmp_path: Path) -> None:
    move, image = MOVES[operation], Local(path=str(tmp_path / "image"))

    async def work(daemon: Daemon, xenops: Xenops) -> None:
        asks = _asks(xenops, operation, image)
        ends = []
        for ask in asks:
            await _bring(xenops, image, state)
            if state in move.origins:
                await xenops.finished(await ask())
                ends.append(await power_state(xenops, VM))
            elif move.elsewhere:
                try:
                    await xenops.finished(await ask())
                except Fault as fault:
                    assert "fails" in move.elsewhere, fault  # noqa: PT017 - it may fail, but need not
                assert await power_state(xenops, VM) is state
            else:
                with pytest.raises(BadPowerState):
                    await ask()
                assert await power_state(xenops, VM) is state
            await xenops.finished(await xenops.VM.destroy(VM))
            await xenops.VM.remove(VM)
        assert ends == (list(move.ends) if state in move.origins else [])

    with_daemon(tmp_path / "daemon", work)
