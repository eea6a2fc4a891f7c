# SPDX-License-Identifier: Apache-2.0
"""A simulated guest's memory: so many pages, written round and round while it runs, each write leaving other bytes. Pure.

What a page holds follows from its number and from how often it was written, so that the far end can tell a page that is
missing or too old, and nobody has to keep the pages themselves.
"""

import hashlib
import struct
import zlib
from collections.abc import Iterable, Iterator

from msgspec import Struct

PAGE = 4096
_PAGES_A_CHUNK = 64
_NUMBER = struct.Struct(">I")
_SEED = struct.Struct(">IQ")


class Ram(Struct, omit_defaults=True):
    """What a guest has touched of its memory, how fast it writes there, and how often it has."""

    pages: int = 256
    dirty_pages_s: float = 0.0
    writes: int = 0

    def run(self, seconds: float) -> set[int]:
        """The guest runs on for a while; the pages that it writes meanwhile."""
        done = int(self.dirty_pages_s * seconds)
        if not done or not self.pages:
            return set()
        first, self.writes = self.writes, self.writes + done
        return {write % self.pages for write in range(first, first + min(done, self.pages))}

    def page(self, number: int) -> bytes:
        """What that page holds now."""
        times = max(0, (self.writes - number - 1) // self.pages + 1)
        return hashlib.blake2b(_SEED.pack(number, times)).digest() * (PAGE // 64)

    def chunks(self, numbers: Iterable[int]) -> Iterator[bytes]:
        """Those pages as they travel, some at a time."""
        chosen = sorted(numbers)
        for at in range(0, len(chosen), _PAGES_A_CHUNK):
            part = chosen[at : at + _PAGES_A_CHUNK]
            yield b"".join(_NUMBER.pack(number) + self.page(number) for number in part)


class Arrived:
    """The pages that have come, as far as it takes to know whether they are the right ones."""

    def __init__(self) -> None:
        self._checksums: dict[int, int] = {}

    def take(self, untrusted: bytes) -> None:
        """A chunk of pages. Raises `ValueError`."""
        size = _NUMBER.size + PAGE
        if len(untrusted) % size:
            raise ValueError("a piece of memory is no number of whole pages")
        for at in range(0, len(untrusted), size):
            (number,) = _NUMBER.unpack_from(untrusted, at)
            self._checksums[number] = zlib.crc32(untrusted[at + _NUMBER.size : at + size])

    def check(self, ram: Ram) -> None:
        """Is it that memory, as it was when the guest stopped? Raises `ValueError`."""
        for number in range(ram.pages):
            if self._checksums.pop(number, None) != zlib.crc32(ram.page(number)):
                raise ValueError(f"page {number} of the memory is missing or out of date")
        if self._checksums:
            raise ValueError("there are pages that the guest does not have")
