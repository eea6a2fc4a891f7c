# SPDX-License-Identifier: Apache-2.0
"""The acknowledgements of a channel: never of unfinished work, never of the same twice, in the end of all."""

from hypothesis import given
from hypothesis import strategies as st

from xenops.bus.acks import Ack, Acks


class Channel:
    """What the other side makes of them; it complains as a broker would."""

    def __init__(self, delivered: int) -> None:
        self.unacked = set(range(1, delivered + 1))

    def take(self, ack: Ack) -> set[int]:
        settled = {tag for tag in self.unacked if tag <= ack.tag} if ack.multiple else {ack.tag} & self.unacked
        assert ack.tag in settled, "unknown delivery tag"
        self.unacked -= settled
        return settled


@given(
    order=st.permutations(range(1, 13)), flush_after=st.sets(st.integers(1, 12)), refused=st.sets(st.integers(1, 12))
)
def test_exactly_what_is_done_is_acknowledged(order: list[int], flush_after: set[int], refused: set[int]) -> None:
    acks, channel, done = Acks(), Channel(12), set()
    for tag in order:
        if tag in refused:
            channel.unacked.discard(tag)
            acks.settle(tag)
        else:
            acks.done(tag)
            acks.done(tag)
            done.add(tag)
        if tag in flush_after:
            for ack in acks.take():
                assert channel.take(ack) <= done
            assert not acks.waiting
    for ack in acks.take():
        channel.take(ack)
    assert channel.unacked == set()
    assert acks.take() == []


def test_work_that_ends_in_order_needs_one_acknowledgement() -> None:
    acks = Acks()
    for tag in range(1, 65):
        acks.done(tag)
    assert acks.take() == [Ack(64, True)]
