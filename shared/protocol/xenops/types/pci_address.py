# SPDX-License-Identifier: Apache-2.0
"""The address of a PCI function: domain, bus, device, function."""

import re
from typing import Annotated

from msgspec import Meta

from xenops.types.record import Record

_SPELLING = re.compile(r"(?:([0-9a-fA-F]{1,4}):)?([0-9a-fA-F]{1,2}):([0-9a-fA-F]{1,2})\.([0-7])")


class PciAddress(Record, frozen=True, kw_only=True, order=True):
    """One function of one device; printed as `0000:00:1f.2`."""

    domain: Annotated[int, Meta(ge=0, le=0xFFFF)] = 0
    bus: Annotated[int, Meta(ge=0, le=0xFF)]
    dev: Annotated[int, Meta(ge=0, le=0x1F)]
    fn: Annotated[int, Meta(ge=0, le=7)]

    def __str__(self) -> str:
        return f"{self.domain:04x}:{self.bus:02x}:{self.dev:02x}.{self.fn:x}"

    @staticmethod
    def parse(untrusted_text: str) -> "PciAddress":
        """Read `[DDDD:]BB:DD.F`, all hexadecimal; a `ValueError` says what is wrong."""
        match = _SPELLING.fullmatch(untrusted_text)
        if match is None or int(match[3], 16) > 0x1F:
            raise ValueError(f"{untrusted_text!r} is not a PCI address; write [DDDD:]BB:DD.F, for example 0000:00:1f.2")
        return PciAddress(
            domain=int(match[1] or "0", 16), bus=int(match[2], 16), dev=int(match[3], 16), fn=int(match[4])
        )
