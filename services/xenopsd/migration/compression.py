# SPDX-License-Identifier: Apache-2.0
"""zstd for the memory stream, a frame at a time, never expanding to more than a frame may hold. Pure."""

import zstandard

from xenopsd.migration.stream import CHUNK, Codec, Damaged

_LEVEL = 1  # a link of some Gbit/s is to be filled, not an archive


def compressor() -> Codec:
    """What the source does to a payload."""
    return zstandard.ZstdCompressor(level=_LEVEL).compress


def expander() -> Codec:
    """What the destination does to it; raises `Damaged`."""
    decompressor = zstandard.ZstdDecompressor(max_window_size=CHUNK)

    def expand(untrusted: bytes) -> bytes:
        try:
            if zstandard.frame_content_size(untrusted) not in range(CHUNK + 1):
                raise Damaged("a compressed frame does not say its size, or is too large")
            return decompressor.decompress(untrusted, max_output_size=CHUNK, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise Damaged(f"a compressed frame cannot be expanded: {error}") from None

    return expand
