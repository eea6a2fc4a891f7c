# SPDX-License-Identifier: Apache-2.0
"""`make demo`: runs the whole stack for real, on the simulated hypervisor, and drives it with xenops-cli.

Every command is printed with its output. It stops at the first one that fails, and stops everything that it started.
"""

import asyncio
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from stack import BIN, Stack, StackFailed

TOP = Path(__file__).resolve().parents[2]
VAR = TOP / "var"

# A line is a command of xenops-cli; what follows a # is printed above it.
SCRIPT = """
where                                                            # where is the stack?
add examples/myfirstvm.cfg                                       # register a machine: nothing is created yet
list
start myfirstvm                                                  # create its domain, build it, plug its devices
list
vm-stat myfirstvm
vbd-add --plug myfirstvm phy:/dev/loop1,xvdc,w                   # a disk is plugged into the running machine, and unplugged
vbd-list myfirstvm
vbd-unplug myfirstvm.xvdc
vbd-remove myfirstvm.xvdc
vif-add --plug myfirstvm mac=00:16:3e:00:00:01,bridge=xenbr0     # the same for a NIC
vif-list myfirstvm
vif-unplug myfirstvm.1
vif-remove myfirstvm.1
cd-insert myfirstvm.hdb {var}/image.iso                          # a CD goes in and comes out
vbd-list myfirstvm
cd-eject myfirstvm.hdb
pause myfirstvm                                                  # time stops, and goes on
list
unpause myfirstvm
suspend myfirstvm --block-device {var}/memory                    # its memory goes to a file, and comes back
list
resume myfirstvm --block-device {var}/memory
list
debug reboot {id}                                                # the guest reboots by itself
console myfirstvm --expect login: --timeout 5                    # what it says on its console
list
shutdown myfirstvm --timeout 30                                  # the guest is asked to stop
list
remove myfirstvm
list
"""


async def demonstrate(var: Path) -> int:
    """Start, drive, stop; 0 when every command succeeded."""
    began, vm = time.monotonic(), ""
    stack = Stack(var, log_to=var / "log")
    (var / "image.iso").write_bytes(b"no real image")
    try:
        await stack.start()
        names = ", ".join(part.program for part, _ in stack.running)
        print(f"running, as separate processes that talk over the bus: {names}\n")
        for line in SCRIPT.strip().splitlines():
            command, _, why = line.partition("#")
            if why:
                print(f"# {why.strip()}")
            if "{id}" in command:
                vm = await asyncio.to_thread(_only_id, stack.where_file)
            if not await drive(command.format(var=var, id=vm).split(), stack.where_file):
                return 1
    except StackFailed as error:
        print(f"make demo: {error}; the log follows", file=sys.stderr)
        sys.stderr.write((var / "log").read_text(errors="replace"))
        return 1
    finally:
        await stack.stop()
    print(f"everything is stopped; it took {time.monotonic() - began:.1f} s. `make run` is for trying it yourself.")
    return 0


async def drive(arguments: list[str], where_file: Path) -> bool:
    """Run one command of xenops-cli, with its output on this terminal."""
    print(f"$ xenops-cli {shlex.join(arguments)}", flush=True)
    environ = {**os.environ, "XENOPS_WHERE": str(where_file)}
    process = await asyncio.create_subprocess_exec(
        str(BIN / "xenops-cli"), *arguments, cwd=TOP, env=environ, stdin=subprocess.DEVNULL
    )
    code = await process.wait()
    print(flush=True)
    if code != 0:
        print(f"make demo: that command ended with code {code}", file=sys.stderr)
    return code == 0


def _only_id(where_file: Path) -> str:
    environ = {**os.environ, "XENOPS_WHERE": str(where_file)}
    return subprocess.check_output([str(BIN / "xenops-cli"), "list", "-q"], env=environ, text=True).strip()


def main() -> int:
    """The command."""
    VAR.mkdir(exist_ok=True, mode=0o700)
    var = Path(tempfile.mkdtemp(prefix="demo-", dir=VAR))
    try:
        return asyncio.run(demonstrate(var))
    finally:
        shutil.rmtree(var)


if __name__ == "__main__":
    raise SystemExit(main())
