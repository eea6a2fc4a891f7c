# SPDX-License-Identifier: Apache-2.0
"""The door to libxc: an open handle, calls whose failures say which call, why, and what the library's log had to say.

No other room knows that C is called, that it blocks, or how it reports errors. A handle belongs to one thread and is
never used after a fork.
"""

import errno
import functools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar

from xenops.errors import DoesNotExist, HypercallFailed
from xenopsd.backends.xen.declarations import RELEASES, Release

ERROR_LEVEL = 8  # XTL_ERROR
_KEPT_LINES = 200
_LINE_LIMIT = 1024
_REASONS = {1: "XC_INTERNAL_ERROR", 2: "XC_INVALID_KERNEL", 3: "XC_INVALID_PARAM", 4: "XC_OUT_OF_MEMORY"}
_PR_SET_PDEATHSIG = 1
_XENVER_VERSION = 0


class Xc:
    """An open `xc_interface`, with a log of its own. Close it, or use it as a context."""

    open_handles: ClassVar[int] = 0
    _count_lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self) -> None:
        """Open the hypervisor. Raises `HypercallFailed` where there is none, or one of an unknown release."""
        self.release, self._lib = _library()
        self.ffi = self.release.ffi
        self.lines: deque[str] = deque(maxlen=_KEPT_LINES)
        self.under_way = ""  # the last call that was made
        self._errors: list[str] = []
        self._on_progress: Callable[[float], None] | None = None
        self._line = self.ffi.new("char[]", _LINE_LIMIT)
        # libxc keeps pointers to all of these
        self._callbacks = (
            self.ffi.callback("void(xentoollog_logger*,int,int,const char*,const char*,void*)", self._log),
            self.ffi.callback(
                "void(xentoollog_logger*,const char*,const char*,int,unsigned long,unsigned long)", self._progress
            ),
        )
        self._logger = self.ffi.new("xentoollog_logger *", [*self._callbacks, self.ffi.NULL])
        self.handle = self.ffi.NULL
        self.handle = self.call_bare("xc_interface_open", self._logger, self._logger, 0)
        with Xc._count_lock:
            Xc.open_handles += 1
        try:
            self._check_release()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Xc":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the handle. Idempotent."""
        if self.handle != self.ffi.NULL:
            handle, self.handle = self.handle, self.ffi.NULL
            self._lib.xc_interface_close(handle)
            with Xc._count_lock:
                Xc.open_handles -= 1

    def call(self, name: str, *arguments: Any) -> Any:
        """Call a function that takes the handle first. Raises `HypercallFailed`."""
        self._lib.xc_clear_last_error(self.handle)  # it is sticky, and would explain the next failure wrongly
        return self.call_bare(name, self.handle, *arguments)

    def call_bare(self, name: str, *arguments: Any) -> Any:
        """Call a function as it is. Raises `HypercallFailed` for NULL, for anything negative, and for an xc_dom_* not 0."""
        self._errors.clear()
        self.under_way = name
        self.ffi.errno = 0
        result = getattr(self._lib, name)(*arguments)
        number = self.ffi.errno
        if result is None:
            return None
        if self._is_failure(name, result):
            raise self._failure(name, number)
        return result

    def on_domain(self, domid: int, name: str, *arguments: Any) -> Any:
        """Call a function that takes the handle and a domid. Raises `DoesNotExist("domain", domid)`, `HypercallFailed`."""
        try:
            return self.call(name, domid, *arguments)
        except HypercallFailed as failure:
            if failure.errno == "ESRCH":
                raise DoesNotExist("domain", str(domid)) from failure
            raise

    def plain(self, name: str, *arguments: Any) -> Any:
        """Call a function that cannot fail, without a handle."""
        return getattr(self._lib, name)(*arguments)

    def forget_lines(self) -> None:
        """Start the log anew, for the next operation."""
        self.lines.clear()

    @contextmanager
    def reporting(self, on_progress: Callable[[float], None]) -> Iterator[None]:
        """Tell how far a long call is, 0 to 1, as libxc reports it."""
        self._on_progress = on_progress
        try:
            yield
        finally:
            self._on_progress = None

    def _check_release(self) -> None:
        number = self.call("xc_version", _XENVER_VERSION, self.ffi.NULL)
        running = f"{number >> 16}.{number & 0xFFFF}"
        if running != self.release.name:
            raise HypercallFailed(
                "xc_version", "ENOTSUP", f"Xen {running} is running, and {self.release.soname} is installed; {_known()}"
            )

    def _is_failure(self, name: str, result: Any) -> bool:
        if isinstance(result, int):
            return result < 0 or (result != 0 and name.startswith("xc_dom_"))
        return bool(result == self.ffi.NULL)

    def _failure(self, name: str, number: int) -> HypercallFailed:
        last = "" if self.handle == self.ffi.NULL else self._last_error()
        words = [line for line in self._errors if line]
        why = _name(number) if number else ""
        if not why and last.startswith("XC_"):
            why = last.partition(":")[0]
        if not any(last.partition(": ")[2] in line for line in words):  # usually the log has said it already
            words.insert(0, last)
        reason = "; ".join(dict.fromkeys(filter(None, words))) or (
            os.strerror(number) if number else "no reason was given"
        )
        return HypercallFailed(name, why or "no errno", reason)

    def _last_error(self) -> str:
        error = self._lib.xc_get_last_error(self.handle)
        if error == self.ffi.NULL or not error.code:
            return ""
        text = self.ffi.string(error.message).decode(errors="replace")
        return f"{_REASONS.get(error.code, error.code)}: {text}"

    def _log(self, _logger: Any, level: int, number: int, context: Any, untrusted_format: Any, arguments: Any) -> None:
        _libc().vsnprintf(self._line, _LINE_LIMIT, untrusted_format, arguments)
        text = self.ffi.string(self._line).decode(errors="replace").strip()
        if number > 0:
            text += f" ({_name(number)})"
        where = self.ffi.string(context).decode() if context != self.ffi.NULL else "libxc"
        self.lines.append(f"{where}: {text}")
        if level >= ERROR_LEVEL:
            self._errors.append(text)

    def _progress(self, _logger: Any, _context: Any, _what: Any, percent: int, _done: int, _total: int) -> None:
        if self._on_progress is not None:
            self._on_progress(percent / 100)


def die_with_parent(signal_number: int) -> None:
    """Have the kernel send this process a signal when its parent ends, however it ends."""
    ffi = RELEASES[0].ffi
    if _libc().prctl(_PR_SET_PDEATHSIG, ffi.cast("unsigned long", signal_number)) != 0:
        raise OSError(ffi.errno, "prctl(PR_SET_PDEATHSIG)")


def unzstd(untrusted_packed: bytes, size: int) -> bytes:
    """So many bytes out of a zstd frame, with the library that libxenguest brings along. Raises `ValueError`."""
    release, lib = _library()
    image = bytearray(size)
    done = lib.ZSTD_decompress(release.ffi.from_buffer(image), size, untrusted_packed, len(untrusted_packed))
    if lib.ZSTD_isError(done) or done != size:
        raise ValueError("zstd cannot unpack it")
    return bytes(image)


@functools.cache
def _library() -> tuple[Release, Any]:
    """The newest known release that is installed."""
    missing = []
    for release in reversed(RELEASES):
        try:
            return release, release.ffi.dlopen(release.soname)
        except OSError as error:
            missing.append(str(error))
    raise HypercallFailed("dlopen", "ENOENT", f"{'; '.join(missing)}; {_known()}")


@functools.cache
def _libc() -> Any:
    return RELEASES[0].ffi.dlopen(None)


def _name(number: int) -> str:
    return "EOPNOTSUPP" if number == errno.EOPNOTSUPP else errno.errorcode.get(number, str(number))


def _known() -> str:
    return f"the Xen releases known here are {', '.join(release.name for release in RELEASES)}"
