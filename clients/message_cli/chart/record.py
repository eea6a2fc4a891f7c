# SPDX-License-Identifier: Apache-2.0
"""One message that passed, as `tail --follow --json` records it, a line each; what else a line holds is not read. Pure."""

from collections.abc import Iterable, Iterator
from typing import Annotated

import msgspec

from message_cli.exits import Complaint, Exit

_LINE_MAX = 1 << 20
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e9)]


class Seen(msgspec.Struct, frozen=True, kw_only=True):
    """`seen_s` are seconds on the watcher's clock since it began; there is no other clock that all messages share."""

    way: str
    where: str
    to: list[str]
    connection: str
    redelivered: bool
    correlation_id: str
    reply_to: str
    method: str
    fault: str
    bytes: int
    seen_s: _Seconds


_decoder = msgspec.json.Decoder(Seen)


def parse(untrusted_lines: Iterable[bytes]) -> Iterator[Seen]:
    """What was recorded; empty lines are passed over, any other that is no record is a `Complaint` with its number."""
    for number, untrusted in enumerate(untrusted_lines, 1):
        if not untrusted.strip():
            continue
        if len(untrusted) > _LINE_MAX:
            raise Complaint(f"line {number} is longer than any record", Exit.USAGE)
        try:
            yield _decoder.decode(untrusted)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            text = f"line {number} was not recorded by `tail --follow --json`: {error}"
            raise Complaint(text, Exit.USAGE) from None
