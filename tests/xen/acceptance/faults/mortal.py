# SPDX-License-Identifier: Apache-2.0
"""The xenopsd that ends without warning, on the real Xen: what counts as a change of the world there.

Each hypercall that changes something, each burst to xenstored that does, each order to a builder and each program that
forkexecd is to run. Of the last two it does not live to see the end: it ends while they are at work.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from tests.xenopsd.kill import mortal
from xenops.types.process import Ended, Program
from xenopsd.backends.xen.builder.orders import Answer, Order
from xenopsd.backends.xen.builder.process import BuilderProcess, Questions
from xenopsd.backends.xen.libxc import Xc
from xenopsd.backends.xen.xenstore.connection import Burst, Connection
from xenopsd.backends.xen.xenstore.wire import Operation, Request
from xenopsd.forkexec import Forkexec

LOOKS = ("_get", "getinfo", "xc_version", "xc_physinfo", "_info", "xc_sched_id", "readconsole", "cpu_policy_get")
CHANGES = {
    Operation.TRANSACTION_END,
    Operation.INTRODUCE,
    Operation.RELEASE,
    Operation.WRITE,
    Operation.MKDIR,
    Operation.RM,
    Operation.SET_PERMS,
    Operation.RESUME,
}
_AT_WORK_S = 0.05

_call, _send, _perform, _run = Xc.call, Connection.send, BuilderProcess.perform, Forkexec.run


def call(self: Xc, name: str, *arguments: Any) -> Any:
    if not any(word in name for word in LOOKS):
        mortal.changes.count()
    return _call(self, name, *arguments)


def send(self: Connection, requests: Sequence[Request], transaction: int = 0) -> Burst:
    ends = any(request.operation is Operation.TRANSACTION_END for request in requests)
    if ends or (transaction == 0 and any(request.operation in CHANGES for request in requests)):
        mortal.changes.count()
    return _send(self, requests, transaction)


async def perform(self: BuilderProcess, order: Order, questions: Questions, timeout_s: float) -> Answer:
    answer: Answer = await _in_the_middle(_perform(self, order, questions, timeout_s))
    return answer


async def run(self: Forkexec, program: Program) -> Ended:
    ended: Ended = await _in_the_middle(_run(self, program))
    return ended


async def _in_the_middle(work: Any) -> Any:
    doing = asyncio.ensure_future(work)
    await asyncio.wait({doing}, timeout=_AT_WORK_S)
    mortal.changes.count()
    return await doing


def main() -> int:
    """The command `xenopsd`."""
    Xc.call = call  # type: ignore[method-assign]
    Connection.send = send  # type: ignore[method-assign]
    BuilderProcess.perform = perform  # type: ignore[method-assign]
    Forkexec.run = run  # type: ignore[method-assign]
    return mortal.main()
