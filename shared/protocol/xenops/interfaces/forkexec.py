# SPDX-License-Identifier: Apache-2.0
"""What can be asked of forkexecd: run a program."""

from typing import ClassVar, Protocol

from xenops.errors import Busy, ProgramFailed
from xenops.idl import Interface, rpc
from xenops.types.process import Ended, Program


class FORKEXEC(Interface, Protocol):
    """Programs run on behalf of other services."""

    name: ClassVar[str] = "FORKEXEC"

    @rpc(raises=(ProgramFailed, Busy))
    async def run(self, program: Program) -> Ended:
        """Run a program to its end; over its time it is asked to stop, and killed if it does not."""
