# SPDX-License-Identifier: Apache-2.0
"""What can be configured of forkexecd."""

from typing import Annotated

from msgspec import Meta

from xenops.service.bus import BusSettings


class ForkexecdSettings(BusSettings, frozen=True, kw_only=True):
    """Run programs on behalf of the other services of this host, over the bus."""

    max_programs: Annotated[
        int, Meta(ge=1, le=10000, description="programs that may run at once; further ones are refused as Busy")
    ] = 64
    kill_after: Annotated[
        float,
        Meta(gt=0, le=3600, description="seconds that a program over its time has between SIGTERM and SIGKILL"),
    ] = 5.0
