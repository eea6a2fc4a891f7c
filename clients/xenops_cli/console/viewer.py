# SPDX-License-Identifier: Apache-2.0
"""A machine's graphical console, in a viewer where there is one, or else as an address."""

import asyncio
import os
import shutil

from xenops.types.console import ConsoleProtocol
from xenops.types.vm import VmStat
from xenops_cli.console.listening import Viewed
from xenops_cli.console.talk import Talk, on_loop
from xenops_cli.session import Session


def view_picture(session: Session, machine: VmStat) -> Viewed:
    """Run a viewer until it is closed; a document, or a machine without a display, gets the address."""
    return on_loop(session, lambda talk: _view(talk, machine))


async def _view(talk: Talk, machine: VmStat) -> Viewed:
    route = await talk.console.open(machine.vm.id, protocol=ConsoleProtocol.RFB)
    viewer = shutil.which("vncviewer")
    if talk.session.args.json or viewer is None or not os.environ.get("DISPLAY"):
        viewer = ""
    else:
        process = await asyncio.create_subprocess_exec(viewer, f"{route.host}::{route.port}")
        try:
            await process.wait()
        finally:
            if process.returncode is None:
                process.terminate()
    return Viewed(vm=machine.vm.id, host=route.host, port=route.port, expires_s=route.expires_s, viewer=viewer)
