# SPDX-License-Identifier: Apache-2.0
"""A program that is run for each request and answers for `serve`."""

import asyncio
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
