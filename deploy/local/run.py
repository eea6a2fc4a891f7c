# SPDX-License-Identifier: Apache-2.0
"""`make run`: the stack in the foreground until Ctrl-C; machines survive to the next run.

`make run BACKEND=xen`, as root in a control domain, runs it on the real Xen there.
"""

import asyncio
import os
import sys
from pathlib import Path

from stack import Stack, StackFailed

from xenops.service.process import run
from xenops.where import Where

BACKENDS = {"simulator": "a simulated hypervisor", "xen": "the Xen of this host"}
VAR = Path(os.environ.get("VAR", Path(__file__).resolve().parents[2] / "var")).resolve()

READY_S = {"simulator": 30.0, "xen": 180.0}  # a control domain may be slow, an emulated one is

BANNER = """
  xenopsd is running, with {hypervisor}.

    switch (AMQP 0-9-1)   {address}
    requests              {queue}
    events                topic exchange {events}
    metrics               {metrics}
    state                 {state}

  In another terminal:

    .venv/bin/xenops-cli add examples/myfirstvm.cfg
    .venv/bin/xenops-cli start myfirstvm
    .venv/bin/xenops-cli list
    .venv/bin/xenops-cli where --json      # for your own client

  Ctrl-C stops everything; the machines are there again at the next `make run`.
"""


def banner(found: Where) -> str:
    """What runs where, without the password."""
    return BANNER.format(
        hypervisor=BACKENDS[found.instance],
        address="amqp://xenops:***@" + found.amqp.rpartition("@")[2],
        queue=found.queue,
        events=found.events,
        metrics=found.metrics["xenopsd"],
        state=found.state_dir,
    )


async def serve(stop: asyncio.Event) -> int:
    """The stack, until `stop` or until a part of it ends."""
    backend = os.environ.get("BACKEND") or "simulator"
    if backend not in BACKENDS:
        print(f"make run: there is no backend {backend!r}; there are {', '.join(BACKENDS)}", file=sys.stderr)
        return 2
    stack = Stack(VAR, backend=backend, ready_s=READY_S[backend])
    try:
        print(banner(await stack.start()), flush=True)
        stopping, ending = asyncio.ensure_future(stop.wait()), asyncio.ensure_future(stack.ended())
        await asyncio.wait((stopping, ending), return_when=asyncio.FIRST_COMPLETED)
        failed = ending.done() and not stop.is_set()
        why = ending.result() if failed else ""
        for it in (stopping, ending):
            it.cancel()
        await asyncio.gather(stopping, ending, return_exceptions=True)
    except StackFailed as error:
        failed, why = True, str(error)
    finally:
        await stack.stop()
    if failed:
        print(f"make run: {why}; its last words are above", file=sys.stderr)
        return 1
    print("stopped; nothing of the stack runs any more")
    return 0


if __name__ == "__main__":
    raise SystemExit(run(serve))
