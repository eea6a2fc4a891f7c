# SPDX-License-Identifier: Apache-2.0
"""Saving a domain to a file, a block device or a pipe, restoring it, and dumping its core.

An image is complete when its End record is on the disk; one without is never restored to its end.
"""

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from xenops.errors import Fault, HypercallFailed, IoError
from xenopsd.backends.xen.builder import image
from xenopsd.backends.xen.builder.desk import Desk
from xenopsd.backends.xen.builder.image import Kind
from xenopsd.backends.xen.builder.orders import (
    AskLogDirty,
    AskSuspend,
    DumpCore,
    Dumped,
    LogDirty,
    Progress,
    Restore,
    Restored,
    Save,
    Saved,
    Suspended,
)
from xenopsd.backends.xen.libxc import Xc

_LIVE = 1
_STOP, _GO_ON = 1, 0  # XGS_POLICY_STOP_AND_COPY, XGS_POLICY_CONTINUE_PRECOPY
_MOST_ROUNDS, _FEW_PAGES = 5, 50  # as libxc's own
_PLAIN_STREAM, _NO_BACKCHANNEL = 0, -1
_STORAGE_ERRORS = frozenset(
    {"ENOSPC", "EIO", "EDQUOT", "EFBIG", "EROFS", "ENOENT", "EACCES", "EISDIR", "ENOTDIR", "EPIPE"}
)
# libxc has no errno for a stream that makes no sense or ends early.
_STREAM_ERRORS = frozenset({"no errno", "XC_INTERNAL_ERROR", "EIO"})


class Rounds:
    """How often memory is sent while the guest runs on and writes to it: until little is left, or it makes no sense to go on."""

    def __init__(self) -> None:
        self.sent = 0

    def policy(self, iteration: int, dirty_pages: int) -> int:
        """What libxc shall do; it asks before each round, and after it, when it does not know yet how much there is (-1)."""
        if dirty_pages > 0:
            self.sent += 1  # these are sent in any case
        few = 0 <= dirty_pages < _FEW_PAGES
        return _STOP if few or iteration >= _MOST_ROUNDS else _GO_ON


class Suspension:
    """What libxc calls back in the middle of a save, asked on to the daemon."""

    def __init__(self, xc: Xc, desk: Desk, *, hvm: bool) -> None:
        self.suspended = Suspended(ok=False)
        self.rounds = Rounds()
        self._desk = desk
        ffi = xc.ffi
        # One that fails (the daemon has gone) says no by itself, and libxc ends the save.
        self._lent = (
            ffi.callback("int(void*)", self._suspend, error=0),
            ffi.callback("int(uint32_t,unsigned,void*)", self._log_dirty, error=-1),
            ffi.callback("int(struct precopy_stats,void*)", self._policy, error=-1),
        )
        self.callbacks = ffi.new("struct save_callbacks *")
        self.callbacks.suspend = self._lent[0]
        self.callbacks.precopy_policy = self._lent[2]
        if hvm:  # without it, libxenguest aborts the process
            self.callbacks.switch_qemu_logdirty = self._lent[1]

    def _suspend(self, _data: Any) -> int:
        self.suspended = self._desk.ask(AskSuspend(), Suspended)
        return int(self.suspended.ok)

    def _policy(self, stats: Any, _data: Any) -> int:
        return self.rounds.policy(stats.iteration, stats.dirty_count)

    def _log_dirty(self, _domid: int, enable: int, _data: Any) -> int:
        return 0 if self._desk.ask(AskLogDirty(bool(enable)), LogDirty).ok else -1


def save(xc: Xc, order: Save, desk: Desk) -> None:
    """Write the image and tell its size. Raises `HypercallFailed`, `IoError`."""
    suspension = Suspension(xc, desk, hvm=order.hvm)
    with _opened(order.path, os.O_WRONLY | (0 if order.pipe else os.O_CREAT), pipe=order.pipe) as file:
        _empty(file)
        _write(file, image.SIGNATURE + image.header(Kind.XENOPS, len(order.metadata)) + order.metadata)
        _write(file, image.header(Kind.LIBXC))
        try:
            with xc.reporting(_percent(desk)):
                xc.call(
                    "xc_domain_save",
                    file,
                    order.domid,
                    _LIVE if order.live else 0,
                    suspension.callbacks,
                    _PLAIN_STREAM,
                    _NO_BACKCHANNEL,
                )
        except HypercallFailed as failure:
            raise _as_seen(failure, order.path, _STORAGE_ERRORS) from failure
        if suspension.suspended.qemu_state_path is not None:
            _append(file, suspension.suspended.qemu_state_path)
        _write(file, image.header(Kind.END))
        size = 0 if order.pipe else _kept(file)
    desk.tell(Saved(size, suspension.rounds.sent))


def restore(xc: Xc, order: Restore, desk: Desk) -> None:
    """Fill the domain and tell where its rings are. Raises `HypercallFailed`, `IoError`."""
    with _opened(order.path, os.O_RDONLY, pipe=order.pipe) as file:
        try:
            metadata = _before_memory(file)
            store_mfn, console_mfn = _memory(xc, order, file, desk)
            has_qemu_state = _after_memory(file, order.qemu_state_path)
        except image.Malformed as error:
            raise IoError(order.path, str(error)) from error
    desk.tell(Restored(store_mfn, console_mfn, metadata, has_qemu_state))


def dump_core(xc: Xc, order: DumpCore, desk: Desk) -> None:
    """Write the core file and tell its size. Raises `HypercallFailed`, `IoError`."""
    try:
        xc.on_domain(order.domid, "xc_domain_dumpcore", order.path.encode())
    except HypercallFailed as failure:
        raise _as_seen(failure, order.path, _STORAGE_ERRORS) from failure
    with _opened(order.path, os.O_RDWR) as file:
        os.fsync(file)
        size = os.fstat(file).st_size
    desk.tell(Dumped(size))


def _memory(xc: Xc, order: Restore, file: int, desk: Desk) -> tuple[int, int]:
    done = xc.ffi.callback("int(unsigned,void*)", lambda _missing, _data: 0, error=-1)
    callbacks = xc.ffi.new("struct restore_callbacks *")
    callbacks.static_data_done = done
    store, console = xc.ffi.new("unsigned long *"), xc.ffi.new("unsigned long *")
    try:
        with xc.reporting(_percent(desk)):
            xc.call(
                "xc_domain_restore",
                file,
                order.domid,
                order.store_port,
                store,
                order.store_domid,
                order.console_port,
                console,
                order.console_domid,
                _PLAIN_STREAM,
                callbacks,
                _NO_BACKCHANNEL,
            )
    except HypercallFailed as failure:
        raise _as_seen(failure, order.path, _STREAM_ERRORS) from failure
    rings = int(console[0]), int(store[0])
    xc.on_domain(order.domid, "xc_dom_gnttab_seed", order.hvm, *rings, order.console_domid, order.store_domid)
    return rings[1], rings[0]


def _before_memory(file: int) -> bytes:
    """The metadata; the file then stands where libxc's stream begins."""
    image.check_signature(_read(file, len(image.SIGNATURE)))
    metadata = b""
    while True:
        record = image.parse_header(_read(file, image.HEADER_SIZE))
        match record.kind:
            case Kind.XENOPS:
                metadata = _body(file, record.length)
            case Kind.LIBXC:
                return metadata
            case _:
                raise image.Malformed(f"the image's {record.kind.name} record comes before the memory")


def _after_memory(file: int, qemu_state_path: str) -> bool:
    """Whether there was an emulator's state, which is then in the file; the image must come to its end."""
    found = False
    while True:
        record = image.parse_header(_read(file, image.HEADER_SIZE))
        match record.kind:
            case Kind.QEMU:
                state = _body(file, record.length)
                with _opened(qemu_state_path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW) as copy:
                    _empty(copy)
                    _write(copy, state)
                found = True
            case Kind.END:
                return found
            case _:
                raise image.Malformed(f"the image's {record.kind.name} record comes after the memory")


def _append(file: int, qemu_state_path: str) -> None:
    with _opened(qemu_state_path, os.O_RDONLY) as state:
        length = os.fstat(state).st_size
        if length > image.QEMU_LIMIT:
            raise IoError(qemu_state_path, f"the emulator's state is {length} bytes, more than any should be")
        _write(file, image.header(Kind.QEMU, length) + _body(state, length))


def _kept(file: int) -> int:
    """See that what was written is on the disk; how much that is."""
    os.fsync(file)
    return os.lseek(file, 0, os.SEEK_CUR)


@contextmanager
def _opened(path: str, flags: int, *, pipe: bool = False) -> Iterator[int]:
    """A regular file or a block device, or a pipe; whatever fails in the block is told with the path."""
    try:
        file = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    except OSError as error:
        raise IoError(path, error.strerror or str(error)) from error
    try:
        mode = os.fstat(file).st_mode
        if not (stat.S_ISFIFO(mode) if pipe else stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise IoError(path, "this is no pipe" if pipe else "this is neither a file nor a block device")
        os.set_blocking(file, True)
        yield file
    except OSError as error:
        raise IoError(path, error.strerror or str(error)) from error
    finally:
        os.close(file)


def _empty(file: int) -> None:
    """What a longer image left behind is never read again."""
    if stat.S_ISREG(os.fstat(file).st_mode):
        os.ftruncate(file, 0)


def _write(file: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(file, left) :]


def _read(file: int, length: int) -> bytes:
    """At most so many bytes; fewer only at the end."""
    data = b""
    while len(data) < length and (more := os.read(file, length - len(data))):
        data += more
    return data


def _body(file: int, length: int) -> bytes:
    data = _read(file, length)
    if len(data) < length:
        raise image.Malformed(f"the image is cut short: {len(data)} of {length} bytes of a record")
    return data


def _percent(desk: Desk) -> Callable[[float], None]:
    """Tells each percent once; libxc counts from 0 again in each round, which nobody wants to see."""
    told = 0.0

    def tell(done: float) -> None:
        nonlocal told
        if done >= told + 0.01:
            told = done
            desk.tell(Progress(done))

    return tell


def _as_seen(failure: HypercallFailed, path: str, errors: frozenset[str]) -> Fault:
    """What is the storage's fault is told as such."""
    if failure.errno in errors:
        return IoError(path, f"{failure.errno}: {failure.reason}")
    return failure
