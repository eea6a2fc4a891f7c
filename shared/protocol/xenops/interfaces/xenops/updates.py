# SPDX-License-Identifier: Apache-2.0
"""What changed since I last asked."""

from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import DoesNotExist
from xenops.idl import Interface, rpc
from xenops.types.ids import VmId
from xenops.types.update import Token, Updates

WaitSeconds = Annotated[float, Meta(ge=0, le=300, description="seconds")]
BarrierId = Annotated[int, Meta(ge=0, le=(1 << 63) - 1, description="chosen by the caller")]


class UPDATES(Interface, Protocol):
    """What changed since I last asked; the same changes are pushed as events."""

    name: ClassVar[str] = "UPDATES"

    @rpc(waits=True)
    async def get(self, last_id: Token | None = None, timeout: WaitSeconds = 30.0) -> Updates:
        """All that changed after `last_id` (without one: all there is), as soon as there is anything or the time is up."""

    @rpc(reads=True)
    async def last_id(self) -> Token:
        """The token of this moment."""

    @rpc(raises=(DoesNotExist,))
    async def inject_barrier(self, vm_id: VmId, id: BarrierId) -> None:
        """Put a mark into the stream; who sees it has seen every earlier change of that machine."""

    @rpc()
    async def remove_barrier(self, id: BarrierId) -> None:
        """Take a mark away again."""

    @rpc(raises=(DoesNotExist,))
    async def refresh_vm(self, vm: VmId) -> None:
        """Announce a machine and all its devices as if they had changed."""
