# SPDX-License-Identifier: Apache-2.0
"""For tests and for people who debug."""

from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import BadRequest, DoesNotExist, Unimplemented
from xenops.idl import Interface, rpc

Command = Annotated[str, Meta(min_length=1, max_length=64)]


class DEBUG(Interface, Protocol):
    """For tests and for people who debug."""

    name: ClassVar[str] = "DEBUG"

    @rpc(raises=(BadRequest, DoesNotExist, Unimplemented))
    async def trigger(self, cmd: Command, args: list[str] = []) -> None:  # noqa: B006 (read as a declaration, never called)
        """Make something happen: `set-cancel-trigger DEBUG_INFO N`, or one of the backend's own commands."""

    @rpc()
    async def shutdown(self) -> None:
        """Stop the service; machines run on."""
