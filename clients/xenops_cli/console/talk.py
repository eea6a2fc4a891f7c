# SPDX-License-Identifier: Apache-2.0
"""What a console needs: an event loop, since the terminal, the guest and the bus may all speak at any time."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from xenops.client import Xenops, connect
from xenops.interfaces.console import CONSOLE
from xenops.rpc import stub
from xenops.where import Where
from xenops_cli.interrupts import SIGNALS, Stopped
from xenops_cli.session import Session

T = TypeVar("T")
CONNECT_S = 5.0
REPLY_S = 30.0


class Parties(NamedTuple):
    """Whom a conversation asks, from coroutines: xenopsd and vncproxy."""

    xenops: Xenops
    console: CONSOLE


class Talk(NamedTuple):
    """A conversation: the command's session, and whom it asks."""

    session: Session
    xenops: Xenops
    console: CONSOLE


@asynccontextmanager
async def connected(place: Where) -> AsyncIterator[Parties]:
    """xenopsd and vncproxy of that stack."""
    xenops = connect(place.amqp, place.queue, timeout_s=REPLY_S, debug_info="xenops-cli")
    try:
        await xenops.bus.connect(CONNECT_S)
        host = place.queue.split(".")[1] if "." in place.queue else place.queue
        console = stub(CONSOLE, xenops.bus, place.console or f"console.{host}", debug_info="xenops-cli")
        yield Parties(xenops, console)
    finally:
        await xenops.bus.close()


def on_loop(session: Session, conversation: Callable[[Talk], Awaitable[T]]) -> T:
    """Hold a conversation; a signal cancels it, and it has the time to put the terminal back."""

    async def whole() -> T:
        main = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in SIGNALS:
            if main is not None:
                loop.add_signal_handler(number, session.interrupts.note, number, main.cancel)
        async with session.stack.consoles() as parties:
            return await conversation(Talk(session, *parties))

    try:
        return asyncio.run(whole())
    except asyncio.CancelledError:
        if session.interrupts.signal is None:
            raise
        raise Stopped(session.interrupts.signal) from None
    finally:
        session.interrupts.install()
