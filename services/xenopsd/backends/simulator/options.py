# SPDX-License-Identifier: Apache-2.0
"""What can be chosen about the simulated host."""

from msgspec import Struct, field


class SimulatorOptions(Struct, frozen=True, kw_only=True):
    """A host of that size, with that luck; without any option it is large, quick and kind.

    `latency` holds `CALL:MS` or `CALL:MS-MS`; `failures` holds `CALL:FAULT` (always), `CALL:FAULT:TIMES` or
    `CALL:FAULT:CHANCE%`; `guest` is a behaviour in words, as the debug command `guest` takes it.
    """

    memory_mib: int = 1 << 20
    cpus: int = 8
    seed: int = 0
    latency: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    guest: str = "cooperates"
    minimum_reboot_delay_s: float = 0.0
    suspend_timeout_s: float = 60.0
