# SPDX-License-Identifier: Apache-2.0
"""A guest's memory on its way between two builders: whole, or neither end is left waiting, whoever stops first."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xenops.errors import HypercallFailed, IoError, MigrationFailed, NotEnoughMemory, Unimplemented
from xenops.types.metadata import Metadata
from xenops.types.vm import Direct, PowerState, Pvh, Vm
from xenopsd.backends.port import twin_id
from xenopsd.backends.xen.builder.orders import Saved
from xenopsd.backends.xen.builder.stream import Rounds
from xenopsd.backends.xen.domain import creation, suspension
from xenopsd.backends.xen.domain.shelf import Suspended
from xenopsd.backends.xen.migration import passage
from xenopsd.backends.xen.migration.pipe import Pipe
from xenopsd.migration.move import Pipe as Way

VM = Vm(id="one", ty=Pvh(boot=Direct(kernel="k")))
TWIN = Metadata(vm=Vm(id=twin_id("one"), ty=VM.ty))
MEMORY = os.urandom(3 << 20)  # more than all pipes on the way hold


def write(path: str, data: bytes) -> None:
    """As a builder does, which learns by EPIPE that nobody reads."""
    with open(path, "wb", buffering=0) as pipe:
        left = memoryview(data)
        while left:
            left = left[pipe.write(left) :]


def read(path: str, length: int) -> bytes:
    """As a builder does, which knows itself where its image ends."""
    with open(path, "rb", buffering=0) as pipe:
        data = b""
        while len(data) < length and (more := pipe.read(length - len(data))):
            data += more
    return data


class Builders:
    """What the two builders do, each in a thread, in place of processes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.sent, self.expected, self.arrived = MEMORY, len(MEMORY), b""
        self.save_fails: Exception | None = None
        self.restore_fails: Exception | None = None
        self.woken = 0
        self.world: Any = SimpleNamespace(domains=SimpleNamespace(items=lambda: [("one", 1)]))

        async def movable(world: Any, vm: Vm) -> None: ...

        async def noted(world: Any, vm: Vm, info: Any) -> Suspended:
            return Suspended(memory_bytes=len(MEMORY), vcpus=3)

        async def wake(world: Any, vm: Vm) -> None:
            self.woken += 1

        async def restore(world: Any, machine: Metadata, path: Path, progress: Any, *, note: Any, pipe: bool) -> None:
            assert (note.memory_bytes, note.vcpus, pipe) == (len(MEMORY), 3, True)
            if self.restore_fails is not None:
                raise self.restore_fails
            self.arrived = await asyncio.to_thread(read, str(path), self.expected)
            if len(self.arrived) < self.expected:
                raise IoError(str(path), "the image is cut short")

        async def run(path: str, progress: Any, *, moves: bool, live: bool) -> Saved:
            assert (moves, live) == (True, True)
            try:
                await asyncio.to_thread(write, path, self.sent)
            except BrokenPipeError as error:
                raise IoError(path, "EPIPE") from error
            if self.save_fails is not None:
                raise self.save_fails
            return Saved(0, 4)

        monkeypatch.setattr(passage, "_movable", movable)
        monkeypatch.setattr(suspension, "noted", noted)
        monkeypatch.setattr(suspension, "wake", wake)
        monkeypatch.setattr(suspension, "Saving", lambda *_: SimpleNamespace(run=run))
        monkeypatch.setattr(creation, "restore", restore)

    async def send(self, way: Any) -> int:
        async def before_suspend() -> None: ...

        return await passage.send(self.world, VM, way, lambda _: None, before_suspend)

    async def receive(self, way: Any) -> None:
        await passage.receive(self.world, TWIN, way, lambda _: None)

    async def both(self, way: Way) -> int:
        """As the plan has it: whoever fails ends the way for the other."""
        receiving = asyncio.ensure_future(self.receive(way))

        def over(it: "asyncio.Future[None]") -> None:
            error = None if it.cancelled() else it.exception()
            way.break_off(error if isinstance(error, MigrationFailed | NotEnoughMemory) else None)

        receiving.add_done_callback(over)
        try:
            rounds = await self.send(way)
            await way.finish()
            await receiving
            return rounds
        finally:
            receiving.cancel()
            await asyncio.gather(receiving, return_exceptions=True)


@pytest.fixture
def builders(monkeypatch: pytest.MonkeyPatch) -> Builders:
    return Builders(monkeypatch)


def told(story: Callable[[], Awaitable[None]]) -> None:
    """Tell it, and see no descriptor left."""

    async def run() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with asyncio.timeout(30):
            await story()
        assert len(os.listdir("/proc/self/fd")) == before

    asyncio.run(run())


def test_all_of_it_arrives(builders: Builders) -> None:
    async def story() -> None:
        assert await builders.both(Way("one")) == 5
        assert builders.arrived == MEMORY
        assert builders.woken == 0

    told(story)


def test_the_far_end_has_no_room(builders: Builders) -> None:
    async def story() -> None:
        builders.restore_fails = NotEnoughMemory(2, 1)
        with pytest.raises(NotEnoughMemory):
            await builders.both(Way("one"))
        assert builders.woken == 1

    told(story)


def test_the_guest_does_not_suspend(builders: Builders) -> None:
    async def story() -> None:
        builders.save_fails = HypercallFailed("xc_domain_save", "no errno", "no")
        with pytest.raises(HypercallFailed):
            await builders.both(Way("one"))
        assert builders.woken == 1

    told(story)


def test_an_image_that_is_cut_short(builders: Builders) -> None:
    async def story() -> None:
        builders.sent = MEMORY[:-1]
        with pytest.raises(MigrationFailed, match="cut short"):
            await builders.both(Way("one"))

    told(story)


def test_an_image_that_goes_on_after_its_end(builders: Builders) -> None:
    async def story() -> None:
        builders.expected = 7
        with pytest.raises(MigrationFailed, match="after its end"):
            await builders.both(Way("one"))

    told(story)


@pytest.mark.parametrize("pieces", [[], [b"Ijunk"], [b"Njunk"], [b"N\x80"], [None]])
def test_what_does_not_begin_with_a_note(builders: Builders, pieces: list[bytes]) -> None:
    async def story() -> None:
        way = Way("one")
        for piece in pieces:
            await (way.finish() if piece is None else way.send(piece))
        await way.finish()
        with pytest.raises(MigrationFailed, match="what arrived"):
            await builders.receive(way)

    told(story)


def test_cancelled_in_the_middle_the_guest_goes_on(builders: Builders) -> None:
    async def story() -> None:
        way = Way("one")
        sending = asyncio.ensure_future(builders.send(way))
        await way.receive()
        await way.receive()  # from here on nobody takes anything, and its builder waits
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert builders.woken == 1

    told(story)


def test_a_guest_of_another_host_is_refused(builders: Builders) -> None:
    async def story() -> None:
        builders.world.domains.items = lambda: [("two", 1)]
        with pytest.raises(Unimplemented, match="another host"):
            await builders.receive(Way("one"))

    told(story)


def test_a_guest_that_cannot_go_is_named_with_the_reason() -> None:
    async def story() -> None:
        info = SimpleNamespace(domid=1, shutdown=False, paused=False)

        async def look(vm: str) -> Any:
            return info

        async def bound(domid: int) -> list[str]:
            return ["drive xvda (driver domain 5 serves it)"]

        world: Any = SimpleNamespace(domains=SimpleNamespace(info=look), devices=[SimpleNamespace(bound=bound)])
        with pytest.raises(MigrationFailed, match="driver domain 5"):
            await passage._movable(world, VM)
        info.paused = True
        assert passage.power_state(info) is PowerState.PAUSED  # type: ignore[arg-type]
        with pytest.raises(MigrationFailed, match="unpause it first"):
            await passage._movable(world, VM)

    told(story)


def test_a_pipe_gives_what_was_put_in_and_then_ends() -> None:
    async def story() -> None:
        with Pipe() as pipe:
            writing = asyncio.ensure_future(pipe.write(MEMORY))
            data = b""
            while len(data) < len(MEMORY):
                data += await pipe.read()
            await writing
            pipe.finish()
            assert (data, await pipe.read()) == (MEMORY, b"")

    told(story)


def test_rounds_end_when_little_is_left_or_after_five() -> None:
    few, never = Rounds(), Rounds()
    assert [few.policy(*asked) for asked in ((0, 4096), (1, -1), (1, 300), (2, -1), (2, 49))] == [0, 0, 0, 0, 1]
    assert few.sent == 3, "the few are sent while it runs, too"
    asked = [question for n in range(5) for question in ((n, 4096), (n + 1, -1))]
    assert [never.policy(*each) for each in asked] == [0] * 9 + [1]
    assert never.sent == 5
