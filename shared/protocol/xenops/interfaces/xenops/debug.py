# SPDX-License-Identifier: Apache-2.0
"""For tests and for people who debug."""

from typing import ClassVar, Protocol

from xenops.errors import BadRequest, DoesNotExist, Unimplemented
from xenops.idl import Interface, rpc


class DEBUG(Interface, Protocol):
    """For tests and for people who debug."""

    name: ClassVar[str] = "DEBUG"

    @rpc(raises=(BadRequest, DoesNotExist, Unimplemented))
    async def trigger(self, cmd: str, args: list[str] = []) -> None:  # noqa: B006 (read as a declaration, never called)
        """Make something happen: `set-cancel-trigger DEBUG_INFO N`, or one of the backend's own commands."""

    @rpc()
    async def shutdown(self) -> None:
        """Stop the service; machines run on."""
