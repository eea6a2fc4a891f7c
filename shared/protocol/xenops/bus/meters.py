# SPDX-License-Identifier: Apache-2.0
"""What is counted of the bus, whichever bus it is; a service's metrics tell it (`xenops.service.metrics`), a client none."""


class Count:
    """Only ever grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self) -> None:
        self.value += 1


reconnects, dropped_events = Count(), Count()
requests, replies, events = Count(), Count(), Count()
