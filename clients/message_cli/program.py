# SPDX-License-Identifier: Apache-2.0
"""Who answers for `serve`: a program that is run for each request, or the person at the terminal."""

import asyncio
import sys
from collections.abc import Awaitable, Callable

from xenops.errors import ProgramFailed, StepTimedOut

Answering = Callable[[bytes], Awaitable[bytes]]


def program(argv: list[str], timeout_s: float) -> Answering:
    """Run `argv` for each request: its body on standard input, the reply from standard output."""

    async def answer(body: bytes) -> bytes:
        pipe = asyncio.subprocess.PIPE
        try:
            child = await asyncio.create_subprocess_exec(*argv, stdin=pipe, stdout=pipe)
        except OSError as error:
            raise ProgramFailed(argv[0], error.strerror or type(error).__name__) from None
        try:
            async with asyncio.timeout(timeout_s):
                out, _ = await child.communicate(body)
        except TimeoutError:
            raise StepTimedOut(argv[0], timeout_s) from None
        finally:
            if child.returncode is None:
                child.kill()
                await child.wait()
        if child.returncode:
            raise ProgramFailed(argv[0], f"it ended with code {child.returncode}")
        return out

    return answer


def person() -> Answering:
    """Print each request, one at a time, and read the reply up to a line with a single dot."""
    turn = asyncio.Lock()

    async def answer(body: bytes) -> bytes:
        async with turn:
            printable = "".join(c if c.isprintable() or c in "\n\t" else "�" for c in body.decode("utf-8", "replace"))
            print(f"{printable}\n-- reply, ending with a line of a single dot:", flush=True)
            lines: list[bytes] = []
            while (line := await asyncio.to_thread(sys.stdin.buffer.readline)) not in (b"", b".\n"):
                lines.append(line)
            return b"".join(lines)

    return answer
