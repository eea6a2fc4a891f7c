# SPDX-License-Identifier: Apache-2.0
"""What two xenopsds ask of each other while a machine goes from one to the other; clients ask `VM.migrate`."""

from enum import Enum
from typing import Annotated, ClassVar, Protocol

from msgspec import Meta

from xenops.errors import AlreadyExists, BadRequest, Busy, DoesNotExist, MigrationFailed
from xenops.idl import Interface, rpc
from xenops.types.ids import VmId
from xenops.types.metadata import Metadata
from xenops.types.record import Record

MigrationId = Annotated[str, Meta(min_length=1, max_length=1000, description="the migration's id, never used again")]
QueueName = Annotated[str, Meta(min_length=1, max_length=255, description="the queue of a xenopsd: `xenops-cli where`")]
StreamVersion = Annotated[int, Meta(ge=1, le=65535, description="a version of the memory stream")]
StreamVersions = Annotated[list[StreamVersion], Meta(min_length=1, max_length=32)]


class Standing(Enum):
    """How far a destination has come."""

    RECEIVING = "receiving"
    PREPARED = "prepared"
    OWNED = "owned"


class Decision(Enum):
    """What a source has decided."""

    UNDECIDED = "undecided"
    GIVEN = "given"
    KEPT = "kept"


class Accepted(Record, frozen=True, kw_only=True):
    """Where the memory is to go: an address, and a ticket that is good for one connection."""

    host: str
    port: Annotated[int, Meta(ge=1, le=65535)]
    ticket: Annotated[bytes, Meta(min_length=32, max_length=32)]
    version: StreamVersion
    compress: bool
    tls: bool


class Migration(Interface, Protocol):
    """Between xenopsds: each of these may be asked any number of times, and late."""

    name: ClassVar[str] = "Migration"

    @rpc(raises=(AlreadyExists, Busy, BadRequest, MigrationFailed))
    async def offer(
        self,
        id: MigrationId,
        source: QueueName,
        metadata: Metadata,
        versions: StreamVersions,
        compress: bool = False,
        paused: bool = False,
    ) -> Accepted:
        """To a destination: will you take this machine, which is paused and stays so, or runs? It makes room at once."""

    @rpc(raises=(DoesNotExist,), waits=True)
    async def query(self, id: MigrationId, timeout: Annotated[float, Meta(ge=0, le=60)] = 0.0) -> Standing:
        """To a destination: how far are you? Waits until it is more than receiving; it knows nothing of what it gave up."""

    @rpc(raises=(DoesNotExist,), waits=True)
    async def commit(self, id: MigrationId, timeout: Annotated[float, Meta(ge=0, le=60)] = 0.0) -> bool:
        """To a destination that is prepared: the machine is yours. Returns once that is durable; says whether its guest runs by now."""

    @rpc()
    async def abort(self, id: MigrationId) -> None:
        """To a destination: the source keeps the machine."""

    @rpc(reads=True)
    async def decision(self, id: MigrationId, vm: VmId) -> Decision:
        """To a source: whose is it? What it does not know was given up."""
