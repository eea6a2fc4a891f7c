# SPDX-License-Identifier: Apache-2.0
"""The stream of changes: newest place of each object, barriers, tokens that never lie."""

from hypothesis import given
from hypothesis import strategies as st

from xenops.events import Change, Kind
from xenopsd.updates import Updates


def kinds(updates: Updates, token: str | None) -> list[tuple[str, str]]:
    return [(u.id, u.change.value) for u in updates.get(token).updates]


def test_changes_coalesce_at_the_newest_place() -> None:
    updates = Updates("e")
    updates.add(Kind.VM, "a", Change.ADDED)
    updates.add(Kind.VM, "b", Change.ADDED)
    token = updates.token()
    updates.add(Kind.VM, "a")
    assert kinds(updates, None) == [("b", "added"), ("a", "added")]
    assert kinds(updates, token) == [("a", "changed")]
    assert not updates.has_news(updates.token())


def test_removal_is_an_event() -> None:
    updates = Updates("e")
    updates.add(Kind.VM, "a", Change.ADDED)
    token = updates.token()
    updates.add(Kind.VM, "a", Change.REMOVED)
    assert kinds(updates, token) == [("a", "removed")]


def test_a_barrier_holds_the_earlier_changes_of_its_vm() -> None:
    updates = Updates("e")
    updates.add(Kind.VM, "a")
    updates.add(Kind.VBD, "a.xvda")
    updates.add(Kind.VM, "ab")
    token = updates.token()
    updates.add(Kind.VM, "a")
    updates.inject_barrier("a", 7)
    updates.add(Kind.VIF, "a.0")
    answer = updates.get(token)
    assert [(b.id, [u.id for u in b.updates]) for b in answer.barriers] == [(7, ["a"])]
    updates.remove_barrier(7)
    assert updates.get(token).barriers == []


def test_barriers_that_nobody_removes_do_not_pile_up() -> None:
    updates = Updates("e")
    updates.add(Kind.VM, "a")
    before = updates.token()
    for n in range(1001):
        updates.inject_barrier("a", n)
    answer = updates.get(before)
    assert answer.resync, "the oldest barrier is not known any more"
    assert [answer.barriers[0].id, answer.barriers[-1].id, len(answer.barriers)] == [1, 1000, 1000]


@given(st.text())
def test_foreign_tokens_mean_resync(token: str) -> None:
    updates = Updates("e")
    updates.add(Kind.VM, "a")
    answer = updates.get(token)
    assert answer.resync == (token not in ("", "e:0", "e:1"))
    if answer.resync:
        assert [u.id for u in answer.updates] == ["a"]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(list(Change)), st.booleans())))
def test_a_reader_who_follows_knows_what_there_is(history: list[tuple[str, Change, bool]]) -> None:
    updates, token, seen, there = Updates("e"), None, set[str](), set[str]()

    def read() -> None:
        nonlocal token
        answer = updates.get(token)
        token = answer.token
        for update in answer.updates:
            (seen.discard if update.change is Change.REMOVED else seen.add)(update.id)

    for id, change, reads in history:
        updates.add(Kind.VM, id, change)
        (there.discard if change is Change.REMOVED else there.add)(id)
        if reads:
            read()
    read()
    assert seen == there
