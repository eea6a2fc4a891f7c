# SPDX-License-Identifier: Apache-2.0
"""What is in the dump of a domain's memory: an ELF file whose sections are Xen's (docs/misc/dump-core-format.txt)."""

import struct
from pathlib import Path

_SECTION = struct.Struct("<IIQQQQIIQQ")
_CORE = 4


def sections(dump: Path) -> dict[str, int]:
    """Its sections and their sizes; a ValueError when it is no core."""
    with dump.open("rb") as file:
        header = file.read(64)
        if header[:6] != b"\x7fELF\2\1" or struct.unpack_from("<H", header, 16) != (_CORE,):
            raise ValueError(f"{dump} is no 64-bit core")
        (start,) = struct.unpack_from("<Q", header, 40)
        count, names_at = struct.unpack_from("<HH", header, 60)
        file.seek(start)
        table = [_SECTION.unpack(file.read(_SECTION.size)) for _ in range(count)]
        file.seek(table[names_at][4])
        names = file.read(table[names_at][5])
    found = {names[name : names.index(b"\0", name)].decode(): size for name, _, _, _, _, size, *_ in table}
    whole = max(offset + size for _, _, _, _, offset, size, *_ in table)
    if dump.stat().st_size < whole:
        raise ValueError(f"{dump} is cut short: {dump.stat().st_size} of {whole} bytes")
    return found
