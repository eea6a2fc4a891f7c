# SPDX-License-Identifier: Apache-2.0
"""A machine's graphical console, in a viewer where there is one, or else as an address."""

import asyncio
import os
import shutil

from msgspec import Struct

from xenops.types.console import ConsoleProtocol
from xenops.types.vm import VmStat
from xenops_cli.session import Session


class Viewed(Struct, frozen=True, kw_only=True):
    """Where the picture is served, once; `viewer` is the program that showed it."""

    vm: str
    host: str
    port: int
    expires_s: float
    viewer: str = ""


async def view_picture(session: Session, machine: VmStat) -> Viewed:
    """Run a viewer until it is closed; a document, or a machine without a display, gets the address."""
    route = await session.stack.console.open(machine.vm.id, protocol=ConsoleProtocol.RFB)
    viewer = shutil.which("vncviewer")
    if session.args.json or viewer is None or not os.environ.get("DISPLAY"):
        viewer = ""
    else:
        process = await asyncio.create_subprocess_exec(viewer, f"{route.host}::{route.port}")
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
    return Viewed(vm=machine.vm.id, host=route.host, port=route.port, expires_s=route.expires_s, viewer=viewer)
