# SPDX-License-Identifier: Apache-2.0
"""How the program ends: the one table of exit codes, which fault has which, and what a person may do next."""

from enum import IntEnum

from xenops import errors
from xenops.errors import Fault


class Exit(IntEnum):
    """The exit codes; scripts rely on them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    NOT_FOUND = 3
    WRONG_STATE = 4
    TIMEOUT = 124
    INTERRUPTED = 130


MEANINGS: dict[Exit, str] = {
    Exit.OK: "done",
    Exit.FAILED: "it was tried and failed, or the service could not be reached",
    Exit.USAGE: "the command line or the request is wrong; nothing was done",
    Exit.NOT_FOUND: "there is no such machine, device or task, or several match",
    Exit.WRONG_STATE: "the machine is in the wrong power state for this",
    Exit.TIMEOUT: "a time limit passed: no reply, or the guest did not do as asked in time",
    Exit.INTERRUPTED: "interrupted with Ctrl-C",
}

_CODES: dict[type[Fault], Exit] = {
    errors.BadRequest: Exit.USAGE,
    errors.UnknownMethod: Exit.USAGE,
    errors.InvalidVcpus: Exit.USAGE,
    errors.DoesNotExist: Exit.NOT_FOUND,
    errors.BadPowerState: Exit.WRONG_STATE,
    errors.DomainNotBuilt: Exit.WRONG_STATE,
    errors.DeadlineExceeded: Exit.TIMEOUT,
    errors.TimedOut: Exit.TIMEOUT,
    errors.FailedToAcknowledgeShutdownRequest: Exit.TIMEOUT,
    errors.FailedToAcknowledgeSuspendRequest: Exit.TIMEOUT,
    errors.FailedToShutdown: Exit.TIMEOUT,
    errors.FailedToSuspend: Exit.TIMEOUT,
    errors.BallooningTimeoutBeforeMigration: Exit.TIMEOUT,
}

_ADVICE: dict[type[Fault], str] = {
    errors.ServiceFault: "is the stack running? `make run` starts it, `xenops-cli where` says where it is looked for",
    errors.BadPowerState: "`xenops-cli list` shows the states",
    errors.Busy: "`xenops-cli tasks` shows what is under way",
    errors.NotEnoughMemory: "`xenops-cli list` shows who has memory, `mem-set` takes some back, `start --force` skips the check",
}


class Complaint(Exception):
    """Something is wrong on our side of the bus: a file, a name, an option; the text says what to do about it."""

    def __init__(self, sentence: str, code: Exit = Exit.FAILED) -> None:
        super().__init__(sentence)
        self.code = code


def code_of(error: Fault | Complaint) -> Exit:
    """The exit code of a failure."""
    if isinstance(error, Complaint):
        return error.code
    return next((_CODES[cls] for cls in type(error).__mro__ if cls in _CODES), Exit.FAILED)


def sentence_of(error: Fault | Complaint) -> str:
    """What went wrong and what to do next, in one line."""
    advice = next((_ADVICE[cls] for cls in type(error).__mro__ if cls in _ADVICE), "")
    return f"{error}; {advice}" if advice else str(error)


def legend() -> str:
    """The table of exit codes as `--help` prints it."""
    return "exit codes:\n" + "\n".join(f"  {code.value:<5}{meaning}" for code, meaning in MEANINGS.items())
