# SPDX-License-Identifier: Apache-2.0
"""The system calls that processes are made of: start, signal, wait, read and write their pipes.

No other room of forkexecd knows them. Nothing here waits, except that starting a program takes until its exec: a
program on a file system that does not answer holds forkexecd up for as long. There is no `preexec_fn`, which would
run Python between fork and exec and make every start slow.
"""

import contextlib
import errno
import fcntl
import os
import signal
import subprocess
import sys
from dataclasses import dataclass

from xenops.errors import ProgramFailed
from xenops.types.process import Program

CHUNK = 1 << 16
TERMINATE, KILL = signal.SIGTERM, signal.SIGKILL


@dataclass(slots=True)
class Child:
    """A started program, leader of its own session; it stays a zombie, its pid taken, until `reap`."""

    name: str
    arguments: int
    pid: int
    pidfd: int  # becomes readable when the program ends
    stdin: int | None
    stdout: int
    stderr: int
    process: "subprocess.Popen[bytes]"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the program and all that it started in its process group."""
        # Nobody may be left to take it, or nobody that we may signal (set-user-id programs).
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, number)

    def reap(self) -> tuple[int | None, int | None]:
        """The exit code or the signal of the program, which has ended; its pid is free for others afterwards."""
        end = os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        assert end is not None
        os.close(self.pidfd)
        exited = end.si_code == os.CLD_EXITED
        self.process.returncode = end.si_status if exited else -end.si_status  # Popen need not wait any more
        return (end.si_status, None) if exited else (None, end.si_status)


def keep_exit_statuses() -> None:
    """Undo an ignored SIGCHLD that we may have inherited: with it the kernel would forget how our children ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def spawn(program: Program) -> Child:
    """Start a program in a session of its own, with three pipes and no other file of ours."""
    try:
        process = subprocess.Popen(
            program.argv,
            env=program.env,
            cwd=program.cwd,
            stdin=subprocess.PIPE if program.stdin else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            close_fds=True,
            start_new_session=True,
        )
    except OSError as error:
        raise ProgramFailed(program.argv[0], _reason(error, program)) from None
    try:
        return _child(process, program)
    except OSError as error:  # we are out of file descriptors
        kill_group(process.pid)
        process.wait()
        raise ProgramFailed(program.argv[0], f"it was started and killed again: {error.strerror}") from None
    finally:
        for file in (process.stdin, process.stdout, process.stderr):
            if file is not None:
                file.close()


def read(fd: int) -> bytes | None:
    """What there is to read: b"" at the end of the stream, None if nothing has come yet."""
    try:
        return os.read(fd, CHUNK)
    except BlockingIOError:
        return None


def read_rest(fd: int) -> bytes:
    """What an ended program left in its pipe; no more than a pipe holds, since others may go on writing to it."""
    rest, capacity = bytearray(), fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
    while len(rest) < capacity and (untrusted := read(fd)):
        rest += untrusted
    return bytes(rest)


def write(fd: int, data: memoryview) -> int | None:
    """How much was taken; None if nobody reads any more."""
    try:
        return os.write(fd, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return None


def close(fd: int) -> None:
    """Close one of a child's pipes."""
    os.close(fd)


class Guard:
    """A second process that kills our programs should we die without ending them, even by SIGKILL.

    It reads from a pipe which process groups there are; when the pipe ends, it kills those that were not taken back.
    The kernel's own means, PR_SET_PDEATHSIG, would need code between fork and exec and reaches no grandchildren.
    Only a program started in the very moment of our death, before `watch`, escapes it.
    """

    def __init__(self) -> None:
        self._groups: set[int] = set()
        self._start()

    def watch(self, group: int) -> None:
        """Kill this group if we die."""
        self._groups.add(group)
        self._tell(f"+{group}\n")

    def release(self, group: int) -> None:
        """Leave this group alone: it has ended."""
        self._groups.discard(group)
        self._tell(f"-{group}\n")

    def close(self) -> None:
        """End the guard; it kills what is still watched."""
        os.close(self._pipe)
        self._process.wait()

    def _start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-m", "forkexecd.guard"],
            stdin=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        assert self._process.stdin is not None
        self._pipe = _take(self._process.stdin.fileno())
        self._process.stdin.close()

    def _tell(self, line: str) -> None:
        try:
            os.write(self._pipe, line.encode())
        except OSError:  # somebody killed or stopped the guard: another one takes its place
            self._process.kill()
            self.close()
            self._start()
            os.write(self._pipe, "".join(f"+{group}\n" for group in sorted(self._groups)).encode())


def kill_group(group: int) -> None:
    """Kill a process group, if there still is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, KILL)


def outlive_signals() -> None:
    """For the guard: signals that are meant for a whole terminal or service must not end it before its time."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _child(process: "subprocess.Popen[bytes]", program: Program) -> Child:
    fds: list[int] = []
    try:
        fds.append(os.pidfd_open(process.pid))
        for file in (process.stdout, process.stderr, process.stdin):
            if file is not None:
                fds.append(_take(file.fileno()))
    except OSError:
        for fd in fds:
            os.close(fd)
        raise
    pidfd, stdout, stderr = fds[:3]
    return Child(
        name=os.path.basename(program.argv[0]),
        arguments=len(program.argv) - 1,
        pid=process.pid,
        pidfd=pidfd,
        stdin=fds[3] if len(fds) > 3 else None,
        stdout=stdout,
        stderr=stderr,
        process=process,
    )


def _take(fd: int) -> int:
    ours = os.dup(fd)
    os.set_blocking(ours, False)
    return ours


def _reason(error: OSError, program: Program) -> str:
    path = program.argv[0]
    if error.filename == program.cwd and error.filename != path:
        return f"its working directory {program.cwd}: {error.strerror}"
    if error.errno == errno.ENOENT:
        exists = os.path.lexists(path)
        return "the interpreter that its first line names is not there" if exists else "there is no such file"
    if error.errno == errno.EACCES:
        return "it is a directory" if os.path.isdir(path) else "it is not executable, or not reachable, for this user"
    if error.errno == errno.ENOEXEC:
        return "it is neither a binary of this machine nor a script with a #! line"
    return error.strerror or type(error).__name__
