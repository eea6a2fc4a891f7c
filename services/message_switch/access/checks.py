# SPDX-License-Identifier: Apache-2.0
"""Where passwords are checked: beside the event loop, a few at once, so that a storm of logins delays nobody's messages.

Who has gone meanwhile, or lost patience, costs nothing any more; nor does a guess that another connection was let in with a
moment ago, as when a hundred clients of one user come back at once.
"""

import asyncio
import logging
import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from message_switch import clock
from message_switch.access.users import Applicant, Guess, Users
from message_switch.model.faults import Code, ConnectionFault

log = logging.getLogger(__name__)
# A check keeps a processor busy; the other half is for messages.
AT_ONCE = max(1, (os.cpu_count() or 1) // 2)
# Each is a connection that waits, and none of them waits for longer than a handshake may take.
WAITING_MAX = 256


class Checks:
    """At most `AT_ONCE` guesses are checked side by side."""

    def __init__(self, users: Users) -> None:
        self._users = users
        self._free = AT_ONCE
        self._threads = ThreadPoolExecutor(self._free, "passwords")
        self._waiting: deque[tuple[Applicant, Guess]] = deque()

    def check(self, applicant: Applicant, guess: Guess) -> None:
        """Tell the applicant when it is known; raises `ConnectionFault` when too many wait already."""
        if len(self._waiting) >= WAITING_MAX:
            raise ConnectionFault(Code.RESOURCE_ERROR, f"{WAITING_MAX} logins wait already: come back in a while")
        self._waiting.append((applicant, guess))
        self._go_on()

    def close(self) -> None:
        """Those that wait are told nothing."""
        self._waiting.clear()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _go_on(self) -> None:
        while self._free and self._waiting:
            applicant, guess = self._waiting.popleft()
            if not applicant.waits:
                continue
            if (user := self._users.known_with(guess)) is not None:
                applicant.checked(user, clock.now())
                continue
            self._free -= 1
            checking = asyncio.get_running_loop().run_in_executor(self._threads, guess.holds)
            checking.add_done_callback(partial(self._checked, applicant, guess))

    def _checked(self, applicant: Applicant, guess: Guess, checking: asyncio.Future[bool]) -> None:
        self._free += 1
        try:
            user = self._users.let_in(guess) if checking.result() else None
        except Exception:
            log.exception("a password could not be checked")
            user = None
        applicant.checked(user, clock.now())
        self._go_on()
