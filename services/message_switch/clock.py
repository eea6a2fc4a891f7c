# SPDX-License-Identifier: Apache-2.0
"""The switch's time: the time of day at its start, and from then on by a clock that nobody sets.

A time of day that jumps would have everybody miss heartbeats, or nobody; and messages and queues go before their time, or never.
"""

import time

_AHEAD_S = time.time() - time.monotonic()


def now() -> float:
    """Seconds since the epoch, as far as was known at the start."""
    return time.monotonic() + _AHEAD_S
