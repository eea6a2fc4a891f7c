# SPDX-License-Identifier: Apache-2.0
"""The book of calls under way: what is sent when, and that order is kept while nobody serves a queue."""

from xenops.bus.calls import Call, Calls


class Wire:
    """Hands calls to a bus that takes what is there."""

    def __init__(self, calls: Calls[str]) -> None:
        self.calls, self.tag = calls, 0
        self.sent: list[str] = []

    def send(self, call: Call[str]) -> int:
        self.tag += 1
        self.sent.append(call.what)
        self.calls.sent(call, self.tag)
        return self.tag


def test_a_reply_ends_a_call_once() -> None:
    calls: Calls[str] = Calls()
    wire = Wire(calls)
    call, now = calls.add("q", "a", repeatable=True)
    assert now
    wire.send(call)
    assert calls.answered(call.number) is call
    assert calls.answered(call.number) is None
    assert calls.answered(0) is None
    assert calls.confirmed(1, multiple=True) == []
    assert len(calls) == 0


def test_while_nobody_serves_a_queue_one_call_goes_ahead_and_the_others_follow_in_order() -> None:
    calls: Calls[str] = Calls()
    wire = Wire(calls)
    first, _ = calls.add("q", "a", repeatable=True)
    second, _ = calls.add("q", "b", repeatable=True)
    wire.send(first), wire.send(second)
    assert calls.returned(first.number) == "q"  # to be probed after a while
    assert calls.confirmed(1, multiple=False) == []
    third, now = calls.add("q", "c", repeatable=True)
    assert not now
    assert calls.returned(second.number) is None
    _, now = calls.add("other", "x", repeatable=True)
    assert now, "another queue does not wait"

    assert calls.probe("q") is first
    assert calls.probes(first)
    wire.send(first)
    assert calls.probes(first), "what became of it is not known"
    assert not calls.probes(second)
    assert calls.probe("q") is None, "one at a time"
    assert calls.returned(first.number) == "q"
    assert not calls.probes(first)
    assert calls.confirmed(3, multiple=True) == []
    assert calls.probe("q") is first
    wire.send(first)
    assert calls.confirmed(4, multiple=False) == [second, third]
    assert not calls.probes(first)
    assert calls.add("q", "d", repeatable=True)[1], "the queue is there now"


def test_a_probe_whose_caller_gave_up_still_tells() -> None:
    calls: Calls[str] = Calls()
    wire = Wire(calls)
    first, _ = calls.add("q", "a", repeatable=True)
    second, _ = calls.add("q", "b", repeatable=True)
    for call in (first, second):
        wire.send(call)
    calls.returned(first.number), calls.returned(second.number)
    calls.confirmed(2, multiple=True)
    assert calls.probe("q") is first
    tag = wire.send(first)
    calls.drop(first)
    assert calls.returned(first.number) == "q"
    calls.confirmed(tag, multiple=False)
    assert calls.probe("q") is second
    tag = wire.send(second)
    calls.drop(second)
    assert calls.confirmed(tag, multiple=False) == []
    assert calls.probe("q") is None
    assert len(calls) == 0


def test_a_queue_that_everybody_gave_up_on_is_forgotten() -> None:
    calls: Calls[str] = Calls()
    call, _ = calls.add("q", "a", repeatable=True)
    Wire(calls).send(call)
    calls.returned(call.number)
    calls.drop(call)
    assert calls.probe("q") is None
    assert calls.add("q", "b", repeatable=True)[1]


def test_a_full_queue_refuses_those_that_were_sent_to_it() -> None:
    calls: Calls[str] = Calls()
    wire = Wire(calls)
    some = [calls.add("q", what, repeatable=True)[0] for what in "abc"]
    for call in some:
        wire.send(call)
    refused, released = calls.refused(2, multiple=True)
    assert (refused, released) == (some[:2], [])
    assert [call.sent for call in some] == [False, False, True]


def test_after_a_lost_connection_only_what_cannot_have_been_done_or_may_be_repeated_is_sent_again() -> None:
    calls: Calls[str] = Calls()
    wire = Wire(calls)
    repeatable, _ = calls.add("q", "repeatable", repeatable=True)
    once, _ = calls.add("q", "once", repeatable=False)
    returned, _ = calls.add("nobody", "returned", repeatable=False)
    for call in (repeatable, once, returned):
        wire.send(call)
    calls.returned(returned.number)
    unsent, _ = calls.add("q", "unsent", repeatable=False)
    assert calls.lost() == [once]
    assert calls.all() == [repeatable, returned, unsent]
