# SPDX-License-Identifier: Apache-2.0
"""The beginning of a program's output is kept, whatever the pieces it comes in."""

from hypothesis import given
from hypothesis import strategies as st

from forkexecd.output import Output


@given(pieces=st.lists(st.binary(max_size=40), max_size=30), limit=st.integers(0, 200))
def test_any_split_keeps_the_same_beginning_and_counts_everything(pieces: list[bytes], limit: int) -> None:
    whole = b"".join(pieces)
    output = Output(limit)
    for piece in pieces:
        output.feed(piece)
    assert output.kept == whole[:limit]
    assert output.total == len(whole)
    assert output.truncated == (len(whole) > limit)


def test_exactly_the_limit_is_not_truncated() -> None:
    output = Output(3)
    output.feed(b"abc")
    assert (output.kept, output.truncated) == (b"abc", False)
    output.feed(b"d")
    assert (output.kept, output.truncated) == (b"abc", True)
