# SPDX-License-Identifier: Apache-2.0
"""Turns are fair, and one tag's items are served in order, one at a time."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from xenopsd.engine.queues import Queues


def test_tags_take_turns() -> None:
    queues: Queues[int] = Queues()
    for n in range(3):
        queues.push("long", n)
    queues.push("short", 9)
    served = []
    while popped := queues.pop():
        served.append(popped)
        queues.finish(popped[0])
    assert served == [("long", 0), ("short", 9), ("long", 1), ("long", 2)]


def test_a_busy_tag_waits_for_its_end() -> None:
    queues: Queues[int] = Queues()
    queues.push("a", 1)
    queues.push("a", 2)
    assert queues.pop() == ("a", 1)
    assert queues.pop() is None
    assert queues.waiting("a") == (2,)
    queues.finish("a")
    assert queues.pop() == ("a", 2)


def test_items_can_be_taken_out_wherever_they_wait() -> None:
    queues: Queues[int] = Queues()
    for tag in ("a", "b"):
        for n in range(3):
            queues.push(tag, n)
    queues.pop()
    assert sorted(queues.remove(lambda n: n == 2)) == [2, 2]
    assert queues.snapshot() == {"a": [1], "b": [0, 1]}
    assert queues.remove(lambda n: True) == [1, 0, 1] or len(queues) == 0
    assert queues.is_idle("b")
    assert queues.is_busy("a")


class QueuesAgainstLists(RuleBasedStateMachine):
    """The model: a list a tag, the set of busy tags, and how often each waiting tag was passed over."""

    def __init__(self) -> None:
        super().__init__()
        self.queues: Queues[int] = Queues()
        self.lists: dict[str, list[int]] = {}
        self.busy: list[str] = []
        self.passed_over: dict[str, int] = {}
        self.next = 0

    @rule(tag=st.sampled_from("abcd"))
    def push(self, tag: str) -> None:
        self.next += 1
        self.queues.push(tag, self.next)
        self.lists.setdefault(tag, []).append(self.next)

    @rule()
    def pop(self) -> None:
        ready = [tag for tag, items in self.lists.items() if items and tag not in self.busy]
        popped = self.queues.pop()
        assert (popped is None) == (not ready)
        if popped:
            tag, item = popped
            assert tag in ready
            assert self.lists[tag].pop(0) == item
            self.busy.append(tag)
            for other in ready:
                self.passed_over[other] = 0 if other == tag else self.passed_over.get(other, 0) + 1
            assert max(self.passed_over.values()) <= 4  # nobody is passed over more often than there are others

    @rule()
    def finish(self) -> None:
        if self.busy:
            tag = self.busy.pop(0)
            self.passed_over[tag] = 0
            self.queues.finish(tag)

    @invariant()
    def nothing_is_lost(self) -> None:
        assert len(self.queues) == sum(map(len, self.lists.values()))
        for tag, items in self.lists.items():
            assert self.queues.waiting(tag) == tuple(items)


TestQueuesAgainstLists = QueuesAgainstLists.TestCase
