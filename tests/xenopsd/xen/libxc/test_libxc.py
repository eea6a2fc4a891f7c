# SPDX-License-Identifier: Apache-2.0
"""The door to libxc where there is no hypervisor: named faults, no handle left, and what its log says is kept."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xenops.errors import DoesNotExist, HypercallFailed
from xenopsd.backends.xen import libxc
from xenopsd.backends.xen.declarations import RELEASES, Release
from xenopsd.backends.xen.domctl import Domctl
from xenopsd.backends.xen.libxc import Xc

FFI = RELEASES[0].ffi
RUNNING = Path("/proc/xen/privcmd").exists()


class Library:
    """Answers as libxc would; `results` says what each call returns, and the errno it leaves."""

    def __init__(self) -> None:
        self.results: dict[str, tuple[Any, int]] = {}
        self.calls: list[str] = []
        self.message = b""
        self.logger: Any = None
        self.version = 4 << 16 | 17
        self._error = FFI.new("xc_error *")

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> Any:
            self.calls.append(name)
            if name == "xc_interface_open":
                self.logger = arguments[0]
            result, number = self.results.get(name, (0, 0))
            FFI.errno = number
            return result

        return call

    def xc_version(self, *_arguments: Any) -> int:
        return self.version

    def xc_get_last_error(self, _handle: Any) -> Any:
        self._error.code, self._error.message = (2, self.message) if self.message else (0, b"")
        return self._error

    def xc_clear_last_error(self, _handle: Any) -> None:
        self.calls.append("clear")


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Library:
    library = Library()
    library.results["xc_interface_open"] = (FFI.cast("xc_interface *", 1), 0)
    monkeypatch.setattr(libxc, "_library", lambda: (RELEASES[0], library))
    return library


def test_without_a_hypervisor_the_fault_says_so() -> None:
    if RUNNING:
        pytest.skip("there is a hypervisor")
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(HypercallFailed) as caught:
        Xc()
    assert caught.value.call in ("xc_interface_open", "dlopen")
    assert caught.value.errno == "ENOENT"
    assert Xc.open_handles == 0
    assert len(os.listdir("/proc/self/fd")) <= before


def test_a_host_without_the_library_names_the_releases_that_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libxc, "RELEASES", (Release("4.1", "libxenguest.so.4.1", FFI),))
    libxc._library.cache_clear()
    try:
        with pytest.raises(HypercallFailed, match=r"libxenguest.so.4.1.*the Xen releases known here are 4.1"):
            Xc()
    finally:
        libxc._library.cache_clear()


def test_another_release_is_refused_and_nothing_stays_open(library: Library) -> None:
    library.version = 4 << 16 | 19
    with pytest.raises(HypercallFailed, match=r"Xen 4.19 is running.*known here are 4.17") as caught:
        Xc()
    assert (caught.value.call, caught.value.errno) == ("xc_version", "ENOTSUP")
    assert Xc.open_handles == 0
    assert "xc_interface_close" in library.calls


def test_handles_are_counted_and_closed_once(library: Library) -> None:
    with Xc() as first, Xc():
        assert Xc.open_handles == 2
        first.close()
        first.close()
    assert Xc.open_handles == 0
    assert library.calls.count("xc_interface_close") == 2


FAILURES: list[tuple[Any, int, bytes, str, str]] = [
    (-1, 22, b"", "EINVAL", "Invalid argument"),
    (-1, 95, b"", "EOPNOTSUPP", "Operation not supported"),
    (-1, 0, b"no xen notes", "XC_INVALID_KERNEL", "XC_INVALID_KERNEL: no xen notes"),
    (-1, 12, b"panic: no memory", "ENOMEM", "XC_INVALID_KERNEL: panic: no memory"),
    (-1, 0, b"", "no errno", "no reason was given"),
    (FFI.NULL, 16, b"", "EBUSY", "Device or resource busy"),
]


@pytest.mark.parametrize(("result", "number", "message", "errno_name", "reason"), FAILURES)
def test_a_failure_says_which_call_and_why(
    library: Library, result: Any, number: int, message: bytes, errno_name: str, reason: str
) -> None:
    library.results["xc_domain_pause"] = (result, number)
    library.message = message
    with Xc() as xc:
        with pytest.raises(HypercallFailed) as caught:
            xc.call("xc_domain_pause", 3)
        assert caught.value == HypercallFailed("xc_domain_pause", errno_name, reason)
        assert library.calls[-2:] == ["clear", "xc_domain_pause"], "an older error does not explain this one"


def test_a_step_of_a_build_must_answer_zero_and_others_may_count(library: Library) -> None:
    library.results["xc_dom_build_image"] = library.results["xc_evtchn_alloc_unbound"] = (7, 0)
    with Xc() as xc:
        assert xc.call("xc_evtchn_alloc_unbound", 3, 0) == 7
        with pytest.raises(HypercallFailed):
            xc.call("xc_dom_build_image", 3)


def test_a_domain_that_is_not_there_is_named(library: Library) -> None:
    library.results["xc_domain_pause"] = (-1, 3)
    with Xc() as xc, pytest.raises(DoesNotExist) as caught:
        xc.on_domain(42, "xc_domain_pause")
    assert caught.value == DoesNotExist("domain", "42")


def test_what_the_library_logs_is_kept_and_explains_a_failure(library: Library) -> None:
    with Xc() as xc:

        def fail(*_arguments: Any) -> int:
            said = [FFI.new("char[]", b"xc"), FFI.new("char[]", b"segment kernel too large")]
            for level in (1, 8):
                library.logger.vmessage(library.logger, level, 12, *said, FFI.new("char[]", 24))  # a va_list of nothing
            return -1

        library.xc_dom_parse_image = fail  # type: ignore[attr-defined]
        with pytest.raises(HypercallFailed, match="segment kernel too large"):
            xc.call_bare("xc_dom_parse_image", FFI.NULL)
        assert list(xc.lines) == ["xc: segment kernel too large (ENOMEM)"] * 2
        done: list[float] = []
        with xc.reporting(done.append):
            library.logger.progress(library.logger, FFI.NULL, FFI.NULL, 50, 1, 2)
        library.logger.progress(library.logger, FFI.NULL, FFI.NULL, 90, 1, 2)
        assert done == [0.5]
        xc.forget_lines()
        assert not xc.lines


def test_calls_run_beside_the_loop_with_a_handle_a_thread(library: Library) -> None:
    async def run() -> None:
        xc = Domctl(threads=2)
        await asyncio.gather(*(xc.unpause(3) for _ in range(20)))
        assert 1 <= Xc.open_handles <= 2
        await xc.close()
        await xc.close()

    asyncio.run(run())
    assert Xc.open_handles == 0
    assert library.calls.count("xc_domain_unpause") == 20


def test_a_call_that_was_issued_is_waited_for_by_who_is_cancelled(library: Library) -> None:
    async def run() -> None:
        xc = Domctl(threads=1)
        loop = asyncio.get_running_loop()
        begun, may_end, ended = asyncio.Event(), asyncio.Event(), []

        def slow(_xc: Xc) -> None:
            loop.call_soon_threadsafe(begun.set)
            asyncio.run_coroutine_threadsafe(may_end.wait(), loop).result(10)
            ended.append(True)

        task = asyncio.create_task(xc.run(slow))
        await begun.wait()
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        may_end.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended == [True]
        await xc.close()

    asyncio.run(run())


def test_no_c_is_parsed_when_the_daemon_starts() -> None:
    program = "import sys, xenopsd.backends.xen.libxc; print(sorted({'cffi', 'pycparser'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=50)
    assert (done.returncode, done.stdout.strip()) == (0, "[]"), done.stderr
