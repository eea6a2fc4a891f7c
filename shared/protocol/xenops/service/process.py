# SPDX-License-Identifier: Apache-2.0
"""The life of a service process: run one coroutine, tell systemd when it is ready, stop cleanly on SIGTERM or SIGINT."""

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Awaitable, Callable

log = logging.getLogger(__name__)


def run(
    main: Callable[[asyncio.Event], Awaitable[int | None]],
    new_loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> int:
    """Run `main(stop)` until it returns; a signal sets `stop`, a second one of the same ends the process at once.

    `new_loop` makes the event loop, if it is not to be asyncio's own.
    """

    async def until_stopped() -> int:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def asked_by(number: signal.Signals) -> None:
            log.info("%s received: stopping", number.name)
            notify("STOPPING=1")
            loop.remove_signal_handler(number)
            stop.set()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, asked_by, number)
        return await main(stop) or 0

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(until_stopped())


def notify_ready() -> None:
    """Tell the service manager that we serve (sd_notify(3)); without one, nothing happens."""
    notify("READY=1")


def notify(state: str) -> None:
    """Send one sd_notify(3) message to the address in NOTIFY_SOCKET, if there is one."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.connect("\0" + address[1:] if address.startswith("@") else address)
            out.sendall(state.encode())
        except OSError as error:
            log.warning("the service manager could not be told %r: %s", state, error)
