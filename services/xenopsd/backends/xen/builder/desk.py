# SPDX-License-Identifier: Apache-2.0
"""The builder's side of the conversation: orders in, questions and answers out, one at a time.

It ends when the daemon hangs up. A failure that nobody foresaw is told as such, with its traceback on standard error.
"""

import socket
import traceback
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from xenops.errors import Fault, InternalError, IoError, encode
from xenopsd.backends.xen.builder import orders

REPLY = TypeVar("REPLY", bound=orders.Message)


class HungUp(Exception):
    """The daemon is gone."""


class Desk:
    """A socket to the daemon."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._inbox = orders.Inbox()
        self._received: deque[bytes] = deque()

    def tell(self, message: orders.Message) -> None:
        """Say something."""
        try:
            self._connection.sendall(orders.pack(message))
        except OSError as error:
            raise HungUp from error

    def listen(self) -> orders.ToBuilder:
        """What is said next. Raises `HungUp`."""
        while not self._received:
            try:
                data = self._connection.recv(1 << 16)
            except OSError as error:
                raise HungUp from error
            if not data:
                raise HungUp
            self._received.extend(self._inbox.receive(data))
        return orders.to_builder.decode(self._received.popleft())

    def ask(self, question: orders.Message, reply: type[REPLY]) -> REPLY:
        """Ask, and wait for the reply. Raises `HungUp`."""
        self.tell(question)
        answer = self.listen()
        if not isinstance(answer, reply):
            raise HungUp(f"{answer!r:.200} is no answer to {question!r}")
        return answer


Perform = Callable[[orders.Order, Desk], None]


def serve(desk: Desk, perform: Perform, log_lines: Callable[[], list[str]]) -> None:
    """Perform order after order until the daemon hangs up; `perform` tells the answer itself, as soon as it is known."""
    try:
        while True:
            order = desk.listen()
            if not isinstance(order, orders.Order):
                raise HungUp(f"{order!r:.200} is no order")
            try:
                perform(order, desk)
            except HungUp:
                raise
            except Exception as error:  # noqa: BLE001 (told to the daemon, which logs it)
                desk.tell(orders.Failed(encode(_fault(error)), log_lines()))
            desk.tell(orders.Free())
    except HungUp as reason:
        if reason.args:
            print(reason, flush=True)


def _fault(error: Exception) -> Fault:
    match error:
        case Fault():
            return error
        case OSError():
            return IoError(str(error.filename or "-"), error.strerror or str(error))
        case _:
            traceback.print_exception(error)
            return InternalError("-", f"{type(error).__name__}: {error}")
