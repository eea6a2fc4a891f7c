# SPDX-License-Identifier: Apache-2.0
"""A hypercall that does not come back costs its caller a fault and the pool a thread, and nobody else anything."""

import asyncio
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from xenops.errors import HypercallFailed, StepTimedOut
from xenopsd.backends.xen.domctl import Domctl, threads

DEADLINE_S = 20


class FakeXc:
    """An open handle without a hypervisor."""

    opened = closed = 0
    under_way = "xc_domain_destroy"

    def __enter__(self) -> "FakeXc":
        type(self).opened += 1
        return self

    def __exit__(self, *_: object) -> None:
        type(self).closed += 1

    def forget_lines(self) -> None:
        return


@pytest.fixture(autouse=True)
def no_hypervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    FakeXc.opened = FakeXc.closed = 0
    monkeypatch.setattr(threads, "Xc", FakeXc)
    yield
    assert FakeXc.opened == FakeXc.closed


class Stuck:
    """Hypercalls that come back when they are told to."""

    def __init__(self) -> None:
        self.begun, self.may_end = threading.Semaphore(0), threading.Event()

    def __call__(self, _xc: Any) -> int:
        self.begun.release()
        assert self.may_end.wait(DEADLINE_S)
        return 7


def told(story: Any) -> None:
    async def run() -> None:
        xc, stuck = Domctl(threads=2), Stuck()
        try:
            async with asyncio.timeout(DEADLINE_S):
                await story(xc, stuck)
        finally:
            stuck.may_end.set()
            await xc.close()

    asyncio.run(run())


def test_who_asked_is_told_and_all_others_go_on(caplog: pytest.LogCaptureFixture) -> None:
    async def story(xc: Domctl, stuck: Stuck) -> None:
        for _ in range(2):  # all the threads that there are
            with pytest.raises(StepTimedOut) as caught:
                await xc.run(stuck, within_s=0.05)
            assert caught.value.step == "xc_domain_destroy"
        assert await asyncio.gather(*(xc.run(lambda _: 3) for _ in range(20))) == [3] * 20

    told(story)
    assert caplog.text.count("its thread is lost") == 2


def test_what_waits_behind_a_stuck_one_is_told_so_and_never_done() -> None:
    async def story(xc: Domctl, stuck: Stuck) -> None:
        first = [asyncio.create_task(xc.run(stuck)) for _ in range(2)]
        for _ in first:
            await asyncio.to_thread(stuck.begun.acquire, True, DEADLINE_S)
        done: list[int] = []
        with pytest.raises(StepTimedOut, match="waits for a free thread"):
            await xc.run(lambda _: done.append(1), within_s=0.05)
        stuck.may_end.set()
        assert await asyncio.gather(*first) == [7, 7]
        await xc.run(lambda _: None)
        assert not done

    told(story)


@pytest.mark.parametrize("fails", [False, True])
def test_what_comes_too_late_is_put_back(fails: bool, caplog: pytest.LogCaptureFixture) -> None:
    async def story(xc: Domctl, stuck: Stuck) -> None:
        put_back: list[int] = []
        done = asyncio.Event()
        loop = asyncio.get_running_loop()

        def back(_xc: Any, result: int) -> None:
            put_back.append(result)
            loop.call_soon_threadsafe(done.set)
            if fails:
                raise HypercallFailed("xc_domain_destroy", "EPERM", "not now")

        with pytest.raises(StepTimedOut):
            await xc.run(stuck, within_s=0.05, put_back=back)
        stuck.may_end.set()
        await done.wait()
        assert put_back == [7]
        assert await xc.run(lambda _: 3, put_back=back) == 3
        assert put_back == [7]

    told(story)
    assert ("cannot be undone" in caplog.text) == fails


def test_closing_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(threads, "_END_S", 0.05)

    async def story(xc: Domctl, stuck: Stuck) -> None:
        with pytest.raises(StepTimedOut):
            await xc.run(stuck, within_s=0.05)
        await xc.close()
        stuck.may_end.set()
        for thread in threading.enumerate():
            if thread.name.startswith("xc_"):
                thread.join(DEADLINE_S)

    told(story)
    assert "is left behind in a hypercall" in caplog.text
