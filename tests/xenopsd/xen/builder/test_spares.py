# SPDX-License-Identifier: Apache-2.0
"""Builder processes are ready before they are needed, may die, hang or talk nonsense, and leave nothing behind."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from xenops.errors import Fault, HypercallFailed, InternalError, IoError, StepTimedOut
from xenopsd.backends.xen.builder.orders import Save, Suspended
from xenopsd.backends.xen.builder.spares import Builders

FAKE = (sys.executable, str(Path(__file__).parent / "fake_builder.py"))
SAVE = Save(domid=1, path="/image", metadata=b"", hvm=True)


def with_builders(
    test: Callable[[Builders], Awaitable[None]],
    folder: Path,
    count: int = 1,
    *,
    most: int | None = None,
    patience_s: float = 60,
) -> None:
    """Run it, and see neither a process nor a descriptor nor a log left."""

    async def run() -> None:
        descriptors = len(os.listdir("/proc/self/fd"))
        builders = Builders(count, folder / "logs", folder, most=most, program=FAKE, patience_s=patience_s)
        await builders.start()
        try:
            async with asyncio.timeout(30):
                await test(builders)
        finally:
            pids = builders.pids
            await builders.stop()
        assert builders.pids == set()
        assert not [pid for pid in pids if Path(f"/proc/{pid}").exists()]
        assert list((folder / "logs").iterdir()) == []
        assert len(os.listdir("/proc/self/fd")) == descriptors

    asyncio.run(run())


async def unpack(builders: Builders, what: str, *, timeout_s: float = 20) -> int:
    """Have it done; the pid of who did it."""
    async with builders.take() as builder:
        return int(str(await builder.unpack(Path(what), timeout_s=timeout_s)))


def test_spares_are_ready_and_used_again(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        await builders.settled()
        before = builders.pids
        assert len(before) == 2
        first = await unpack(builders, "well")
        assert {await unpack(builders, "well") for _ in range(5)} == {first}
        assert builders.pids == before

    with_builders(test, tmp_path, count=2)


FAULTS: dict[str, Fault] = {
    "hypercall": HypercallFailed("xc_dom_boot_mem_init", "EBUSY", "no memory"),
    "file /boot/none": IoError("/boot/none", "No such file or directory"),
    "exit 3": HypercallFailed("builder unpack", "status 3", "it said nothing"),
    "abort": HypercallFailed("builder unpack", "SIGABRT", "xc: assertion failed: ctx->save.callbacks"),
    "bug here": InternalError("-", "KeyError: 'here'"),
}


@pytest.mark.parametrize("what", FAULTS)
def test_a_failure_is_told_and_another_takes_its_place(what: str, tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        await builders.settled()
        [failed] = builders.pids
        with pytest.raises(type(FAULTS[what])) as caught:
            await unpack(builders, what)
        assert caught.value == FAULTS[what]
        assert not Path(f"/proc/{failed}").exists()
        assert await unpack(builders, "well") != failed

    with_builders(test, tmp_path)


@pytest.mark.parametrize("what", ["garbage", "nonsense", "another"])
def test_nonsense_is_a_named_fault(what: str, tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        with pytest.raises(HypercallFailed) as caught:
            await unpack(builders, what)
        assert caught.value.errno == "EPROTO"
        await unpack(builders, "well")

    with_builders(test, tmp_path)


def test_one_that_hangs_is_given_up_and_killed(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        await builders.settled()
        [hanging] = builders.pids
        with pytest.raises(StepTimedOut, match="builder unpack"):
            await unpack(builders, f"sleep {tmp_path}/begun", timeout_s=0.5)
        assert not Path(f"/proc/{hanging}").exists()
        await unpack(builders, "well")

    with_builders(test, tmp_path)


def test_cancelling_kills_at_once(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        await builders.settled()
        [busy] = builders.pids
        begun = tmp_path / "begun"
        task = asyncio.create_task(unpack(builders, f"sleep {begun}"))
        while not begun.exists():  # noqa: ASYNC110 (another process makes it)
            await asyncio.sleep(0.01)
        started = time.monotonic()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert time.monotonic() - started < 5
        assert not Path(f"/proc/{busy}").exists()
        await unpack(builders, "well")

    with_builders(test, tmp_path)


def test_the_answer_comes_before_the_guest_is_let_go_and_the_block_ends_after(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        gone = tmp_path / "let-go"
        async with builders.take() as builder:
            await builder.unpack(Path(f"linger {gone}"))
            assert not gone.exists()
        assert gone.exists()

    with_builders(test, tmp_path)


def test_questions_are_answered_in_the_middle_of_a_save(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        asked: list[object] = []

        async def suspend() -> Suspended:
            asked.append("suspend")
            return Suspended(ok=True, qemu_state_path="/qemu")

        async def log_dirty(enable: bool) -> bool:
            asked.append(enable)
            return True

        async with builders.take() as builder:
            saved = await builder.save(SAVE, suspend, log_dirty=log_dirty, progress=asked.append)
        assert saved.image_bytes == len("/qemu")
        assert asked == [0.0, 0.25, 0.5, 0.75, 1.0, True, "suspend"]

    with_builders(test, tmp_path)


def test_what_suspending_raises_is_what_the_save_raises(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        async def suspend() -> Suspended:
            raise StepTimedOut("the guest", 1)

        async def refuse() -> Suspended:
            return Suspended(ok=False)

        with pytest.raises(StepTimedOut, match="the guest"):
            async with builders.take() as builder:
                await builder.save(SAVE, suspend)
        with pytest.raises(HypercallFailed, match="said no"):
            async with builders.take() as builder:
                await builder.save(SAVE, refuse)

    with_builders(test, tmp_path)


def test_many_wait_for_few_and_all_are_served(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        assert len(set(await asyncio.gather(*(unpack(builders, "well") for _ in range(30))))) <= 2

    with_builders(test, tmp_path, count=2)


def test_more_are_started_while_all_are_busy_for_long_and_let_go_afterwards(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        begun = tmp_path / "begun"
        long = asyncio.create_task(unpack(builders, f"sleep {begun}"))
        while not begun.exists():  # noqa: ASYNC110 (another process makes it)
            await asyncio.sleep(0.01)
        await unpack(builders, "well")
        long.cancel()
        await asyncio.gather(long, return_exceptions=True)
        await builders.settled()
        assert len(builders.pids) == 1

    with_builders(test, tmp_path, most=2, patience_s=0.2)


def test_patience_begins_when_the_last_one_was_taken(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        await builders.settled()
        await asyncio.sleep(0.6)  # longer than the patience: that the pool was quiet makes nobody impatient
        assert len(set(await asyncio.gather(*(unpack(builders, "well") for _ in range(3))))) == 1

    with_builders(test, tmp_path, most=3, patience_s=0.5)


def test_why_none_can_be_started_is_told_to_who_asks(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        (tmp_path / "broken").touch()  # before any process has begun
        await builders.settled()
        assert builders.pids == set()
        with pytest.raises(HypercallFailed, match="cannot open shared object"):
            await unpack(builders, "well")
        (tmp_path / "broken").unlink()
        await unpack(builders, "well")

    with_builders(test, tmp_path)


def test_an_idle_one_that_died_is_replaced(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        await builders.settled()
        [pid] = builders.pids
        os.kill(pid, signal.SIGKILL)
        while Path(f"/proc/{pid}").exists():  # noqa: ASYNC110 (the kernel tells nobody else)
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.05)
        assert await unpack(builders, "well") != pid

    with_builders(test, tmp_path)


def test_stopping_ends_those_who_wait(tmp_path: Path) -> None:
    async def test(builders: Builders) -> None:
        busy = asyncio.create_task(unpack(builders, f"sleep {tmp_path}/begun"))
        while not (tmp_path / "begun").exists():  # noqa: ASYNC110 (another process makes it)
            await asyncio.sleep(0.01)
        waiting = asyncio.create_task(unpack(builders, "well"))
        await asyncio.sleep(0)
        await builders.stop()
        ends = await asyncio.gather(busy, waiting, return_exceptions=True)
        assert [type(end) for end in ends] == [HypercallFailed, HypercallFailed]

    with_builders(test, tmp_path, most=1)


def test_builders_end_with_the_daemon_however_it_ends(tmp_path: Path) -> None:
    program = f"""
import asyncio, os, pathlib
from xenopsd.backends.xen.builder.spares import Builders
async def main():
    builders = Builders(2, pathlib.Path({str(tmp_path)!r}), pathlib.Path({str(tmp_path)!r}), program={FAKE!r})
    await builders.start(); await builders.settled()
    print(*builders.pids, flush=True)
    os.kill(os.getpid(), 9)
asyncio.run(main())
"""

    async def test() -> None:
        daemon = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
        output, _ = await daemon.communicate()
        pids = output.split()
        assert len(pids) == 2
        async with asyncio.timeout(10):
            while any(_runs(int(pid)) for pid in pids):  # noqa: ASYNC110 (they are not our children)
                await asyncio.sleep(0.01)

    asyncio.run(test())


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_without_a_hypervisor_the_fault_says_so(tmp_path: Path) -> None:
    if Path("/proc/xen/privcmd").exists():
        pytest.skip("there is a hypervisor")

    async def test() -> None:
        builders = Builders(1, tmp_path, tmp_path)
        await builders.start()
        with pytest.raises(HypercallFailed) as caught:
            async with builders.take():
                pass
        assert caught.value.call in ("xc_interface_open", "dlopen")
        assert caught.value.errno == "ENOENT"
        await builders.stop()

    asyncio.run(test())
