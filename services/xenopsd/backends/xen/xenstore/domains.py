# SPDX-License-Identifier: Apache-2.0
"""What the control domain tells xenstored about domains, and about itself."""

from xenopsd.backends.xen.xenstore.connection import refused
from xenopsd.backends.xen.xenstore.nodes import Nodes, payload
from xenopsd.backends.xen.xenstore.wire import Operation, Request, strings, text


class Domains(Nodes):
    """The operations that are about a domain and not about a node. All raise `IoError`."""

    async def introduce(self, domid: int, frame: int, port: int) -> None:
        """A domain talks to the store through this page and this event channel; `@introduceDomain` fires."""
        await self._tell(Operation.INTRODUCE, domid, frame, port)

    async def release(self, domid: int) -> None:
        """A domain is gone, and its page with it; `@releaseDomain` fires."""
        await self._tell(Operation.RELEASE, domid)

    async def resume(self, domid: int) -> None:
        """A domain that had shut down runs again, so that its next end is noticed too."""
        await self._tell(Operation.RESUME, domid)

    async def set_target(self, domid: int, target: int) -> None:
        """A domain may do to nodes whatever `target` may: it is that one's device model."""
        await self._tell(Operation.SET_TARGET, domid, target)

    async def is_introduced(self, domid: int) -> bool:
        """Whether a domain talks to the store."""
        return await self._tell(Operation.IS_DOMAIN_INTRODUCED, domid) == "T"

    async def domain_path(self, domid: int) -> str:
        """Where a domain's own tree is."""
        return await self._tell(Operation.GET_DOMAIN_PATH, domid)

    async def control(self, command: str, *words: str) -> str:
        """The daemon's answer to a command about itself: `help` lists those it has."""
        request = Request(Operation.CONTROL, (command, *words))
        [reply] = await self._ask([request])
        return text(payload(request, reply) or b"").rstrip("\0")

    async def _tell(self, operation: Operation, *numbers: int) -> str:
        request = Request(operation, tuple(map(str, numbers)))
        [reply] = await self._ask([request])
        answer = strings(payload(request, reply) or b"")
        if not answer:
            raise refused(request, "EIO", "the answer is empty")
        return answer[0]
