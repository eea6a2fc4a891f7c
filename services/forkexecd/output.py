# SPDX-License-Identifier: Apache-2.0
"""What a program printed, kept up to a limit: the beginning stays, the rest is counted.

It must never say stop: a pipe that nobody reads any more would block the program.
"""


class Output:
    """The first `limit` bytes of a stream, and how many there were in all."""

    __slots__ = ("_kept", "_limit", "total")

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept = bytearray()
        self.total = 0

    def feed(self, untrusted: bytes) -> None:
        """Take the next bytes of the stream."""
        self.total += len(untrusted)
        self._kept += untrusted[: self._limit - len(self._kept)]

    @property
    def kept(self) -> bytes:
        """The beginning of the stream."""
        return bytes(self._kept)

    @property
    def truncated(self) -> bool:
        """Whether there was more than could be kept."""
        return self.total > self._limit
