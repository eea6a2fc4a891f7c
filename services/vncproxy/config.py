# SPDX-License-Identifier: Apache-2.0
"""What can be configured of vncproxy."""

from typing import Annotated

from msgspec import Meta

from xenops.service.bus import BusSettings
from xenops.service.hypervisor import default_backend


class VncproxySettings(BusSettings, frozen=True, kw_only=True):
    """Offer the consoles of this host's running machines on loopback ports, one connection each."""

    instance: Annotated[
        str, Meta(min_length=1, pattern=r"^[A-Za-z0-9_-]+\Z", description="the xenopsd whose machines these are")
    ] = default_backend()
    xenopsd_queue: Annotated[str, Meta(description="that xenopsd's request queue; unset: xenops.<host>.<instance>")] = (
        ""
    )
    expires: Annotated[
        float, Meta(gt=0, le=3600, description="seconds that an opened port waits for its one connection")
    ] = 30.0
    max_sessions: Annotated[
        int, Meta(ge=1, le=10000, description="sessions at once; further ones are refused as Busy")
    ] = 256

    @property
    def asked(self) -> str:
        """The queue on which xenopsd answers."""
        return self.xenopsd_queue or f"xenops.{self.host}.{self.instance}"
