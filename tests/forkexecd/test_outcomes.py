# SPDX-License-Identifier: Apache-2.0
"""Replies are remembered within limits."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from forkexecd.outcomes import RecentOutcomes


@given(
    replies=st.lists(st.tuples(st.sampled_from("abcdefgh"), st.binary(max_size=30)), min_size=1, max_size=40),
    max_replies=st.integers(1, 5),
    max_bytes=st.integers(0, 80),
)
def test_the_newest_are_kept_within_the_limits(
    replies: list[tuple[str, bytes]], max_replies: int, max_bytes: int
) -> None:
    outcomes = RecentOutcomes(max_replies=max_replies, max_bytes=max_bytes)
    for message_id, reply in replies:
        asyncio.run(outcomes.remember(message_id, reply))
        assert outcomes.recall(message_id) == reply
    kept = [known for name in "abcdefgh" if (known := outcomes.recall(name)) is not None]
    assert len(kept) <= max_replies
    assert len(kept) == 1 or sum(map(len, kept)) <= max_bytes


def test_what_fits_is_not_forgotten() -> None:
    outcomes = RecentOutcomes(max_replies=2, max_bytes=10)
    for message_id in ("a", "b", "c"):
        asyncio.run(outcomes.remember(message_id, b"12345"))
    assert [outcomes.recall(name) for name in "abc"] == [None, b"12345", b"12345"]
