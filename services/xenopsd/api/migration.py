# SPDX-License-Identifier: Apache-2.0
"""What other xenopsds ask, while a machine goes from one to the other."""

from xenops.interfaces.xenops import Migration
from xenops.interfaces.xenops.migration import Accepted, Decision, Standing
from xenops.types.metadata import Metadata
from xenopsd.control import Control
from xenopsd.migration.arrivals import Arrivals


class MigrationApi(Migration):
    """Answers as destination, and as source."""

    def __init__(self, control: Control, arrivals: Arrivals) -> None:
        self._control, self._arrivals = control, arrivals

    async def offer(
        self,
        id: str,
        source: str,
        metadata: Metadata,
        versions: list[int],
        compress: bool = False,
        paused: bool = False,
    ) -> Accepted:
        return await self._arrivals.offer(id, source, metadata, versions, compress=compress, paused=paused)

    async def query(self, id: str, timeout: float = 0.0) -> Standing:
        return await self._arrivals.query(id, timeout)

    async def commit(self, id: str, timeout: float = 0.0) -> bool:
        return await self._arrivals.commit(id, timeout)

    async def abort(self, id: str) -> None:
        await self._arrivals.abort(id)

    async def decision(self, id: str, vm: str) -> Decision:
        return self._control.migration.decision(id, vm)
