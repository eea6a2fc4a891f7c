# SPDX-License-Identifier: Apache-2.0
"""A person's terminal, a real one, with a program running in it."""

import fcntl
import os
import pty
import select
import subprocess
import termios
import time

PATIENCE_S = 20.0


class Terminal:
    """See the module."""

    def __init__(self, argv: list[str], environ: dict[str, str]) -> None:
        self.descriptor, self._inner = pty.openpty()
        self.before = termios.tcgetattr(self._inner)
        self.screen = ""
        inner = self._inner

        def own_terminal() -> None:
            fcntl.ioctl(inner, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            argv, stdin=inner, stdout=inner, stderr=inner, start_new_session=True, preexec_fn=own_terminal,
            env={"TERM": "xterm", **environ},
        )  # fmt: skip

    def see(self, text: str) -> None:
        """Wait until something is on the screen."""
        until = time.monotonic() + PATIENCE_S
        while text not in self.screen:
            ready, _, _ = select.select([self.descriptor], [], [], max(0.0, until - time.monotonic()))
            assert ready, f"{text!r} did not appear; the screen shows {self.screen!r}"
            self.screen += os.read(self.descriptor, 4096).decode("utf-8", "replace")

    def type(self, keys: bytes) -> None:
        """Press these keys."""
        os.write(self.descriptor, keys)

    def ends(self) -> int:
        """Its exit code, once it has ended."""
        return self.process.wait(PATIENCE_S)

    def is_as_before(self) -> bool:
        """Whether the terminal is set as it was at the beginning."""
        return termios.tcgetattr(self._inner) == self.before

    def close(self) -> None:
        """End what still runs, and take the terminal away."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.descriptor)
        os.close(self._inner)
