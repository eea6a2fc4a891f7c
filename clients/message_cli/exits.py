# SPDX-License-Identifier: Apache-2.0
"""How the program ends: the same exit codes as xenops-cli has, for one person's scripts use both."""

from enum import IntEnum

from xenops import errors
from xenops.errors import Fault


class Exit(IntEnum):
    """The exit codes; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    TIMEOUT = 124
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "it was tried and failed, or the broker could not be reached",
    Exit.USAGE: "the command line or the request is wrong; nothing was done",
    Exit.NOT_FOUND: "there is no such queue or message, or nobody serves it",
    Exit.TIMEOUT: "no reply within the time limit",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}

_CODES: dict[type[Fault], Exit] = {
    errors.BadRequest: Exit.USAGE,
    errors.UnknownMethod: Exit.USAGE,
    errors.DoesNotExist: Exit.NOT_FOUND,
    errors.NoSuchService: Exit.NOT_FOUND,
    errors.DeadlineExceeded: Exit.TIMEOUT,
    errors.TimedOut: Exit.TIMEOUT,
}


class Complaint(Exception):
    """Something is wrong on our side of the bus; the text says what to do about it."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def code_of(error: Fault | Complaint) -> Exit:
    """The exit code of a failure."""
    if isinstance(error, Complaint):
        return error.code
    return next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), Exit.FAILED)


def legend() -> str:
    """The table of exit codes as `--help` prints it."""
    return "exit codes:\n" + "\n".join(f"  {code.value:<5}{meaning}" for code, meaning in MEANINGS.items())
