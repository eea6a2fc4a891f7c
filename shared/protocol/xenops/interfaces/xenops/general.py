# SPDX-License-Identifier: Apache-2.0
"""Calls that every service answers: who are you, how are you."""

from typing import Any, ClassVar, Protocol

from xenops.idl import Interface, rpc
from xenops.types.service import ServiceInfo


class General(Interface, Protocol):
    """Who are you, how are you."""

    name: ClassVar[str] = ""

    @rpc(reads=True)
    async def query(self) -> ServiceInfo:
        """Name, version, features and place of the service."""

    @rpc(reads=True)
    async def get_diagnostics(self) -> dict[str, Any]:
        """Queues, workers, timers, updates and tasks as they are now; for people who debug."""
