# SPDX-License-Identifier: Apache-2.0
"""For tests and for people who debug."""

import asyncio

from xenops.errors import BadRequest
from xenops.interfaces.xenops import DEBUG
from xenopsd.control import Control


class DebugApi(DEBUG):
    """Triggers."""

    def __init__(self, control: Control, stop: asyncio.Event) -> None:
        self._control, self._stop = control, stop

    async def trigger(self, cmd: str, args: list[str] = []) -> None:  # noqa: B006 (never changed)
        if cmd != "set-cancel-trigger":
            await self._control.backend.debug(cmd, args)
            return
        if len(args) != 2 or not args[1].isdecimal():
            raise BadRequest("params.args", "set-cancel-trigger takes a debug_info and a number of cancel points")
        self._control.tasks.set_cancel_trigger(args[0], int(args[1]))

    async def shutdown(self) -> None:
        # After the reply has gone out, or the caller would wait for it in vain.
        asyncio.get_running_loop().call_later(0.1, self._stop.set)
