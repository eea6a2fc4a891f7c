# SPDX-License-Identifier: Apache-2.0
"""The handshake's tables hold whatever happens; and tables that are wrong are found out, so the checker can tell."""

import pytest

from tests.xenopsd.migration.model import FIRST, Model, Step, check, settled
from xenopsd.migration.handshake import (
    DESTINATION,
    SOURCE,
    Destination,
    Event,
    Message,
    Source,
    Table,
    Turn,
)


def test_exactly_one_end_has_the_machine_whatever_happens() -> None:
    worlds, findings = check(Model(SOURCE, DESTINATION))
    assert findings == []
    assert worlds > 10_000, "the model has become too small to mean anything"


def test_every_row_is_needed_by_something_that_can_happen() -> None:
    seen: set[tuple[object, object]] = set()
    waiting, known = [FIRST], {FIRST}
    model = Model(SOURCE, DESTINATION, migrations=1, reclaims=True)
    while waiting:
        world = waiting.pop()
        for step, then in model.steps(world):
            seen.add((world.source if step.end == "source" else world.destination, step.what))
            if then not in known:
                known.add(then)
                waiting.append(then)
    assert {*SOURCE, *DESTINATION} - seen == set()


def test_it_can_come_to_either_end() -> None:
    ends = set()
    waiting, known = [FIRST], {FIRST}
    while waiting:
        for _, then in Model(SOURCE, DESTINATION, migrations=1).steps(waiting.pop()):
            if then not in known:
                known.add(then)
                waiting.append(then)
                if settled(then):
                    ends.add((then.source, then.destination))
    assert ends == {(Source.KEPT, Destination.NONE), (Source.GONE, Destination.OWNED)}


def test_an_operator_who_is_wrong_about_the_destination_makes_two() -> None:
    _, findings = check(Model(SOURCE, DESTINATION, migrations=1, reclaims=True))
    assert "two run" in {finding.wrong for finding in findings}


def _source(key: tuple[Source, Message | Event], turn: Turn[Source] | None) -> tuple[Table[Source], Table[Destination]]:
    table = dict(SOURCE)
    assert key in table or turn is not None
    if turn is None:
        del table[key]
    else:
        table[key] = turn
    return table, DESTINATION


def _destination(
    key: tuple[Destination, Message | Event], turn: Turn[Destination] | None
) -> tuple[Table[Source], Table[Destination]]:
    table = dict(DESTINATION)
    assert key in table or turn is not None
    if turn is None:
        del table[key]
    else:
        table[key] = turn
    return SOURCE, table


BROKEN = {
    "the decision is not durable": _source((Source.GIVEN, Event.RESTART), Turn(Source.KEPT)),
    "the source gives up after it decided": _source((Source.GIVEN, Event.GIVE_UP), Turn(Source.KEPT, (Message.ABORT,))),
    "the source decides before the destination is prepared": _source(
        (Source.SENT, Event.AGAIN), Turn(Source.GIVEN, (Message.COMMIT,))
    ),
    "the source says `mine` while it may still decide `yours`": _source(
        (Source.SENT, Message.ASK), Turn(Source.SENT, (Message.ABORT,))
    ),
    "the source says `yours` before it decided": _source(
        (Source.SENT, Message.ASK), Turn(Source.SENT, (Message.COMMIT,))
    ),
    "the source says `mine` after it decided": _source(
        (Source.GIVEN, Message.ASK), Turn(Source.GIVEN, (Message.ABORT,))
    ),
    "the source never wakes its guest": _source((Source.SENT, Event.GIVE_UP), None),
    "the source takes an answer for the last one": _source((Source.SENT, Message.ACCEPTED), Turn(Source.GIVEN)),
    "prepared is not durable": _destination((Destination.PREPARED, Event.RESTART), Turn(Destination.NONE)),
    "the destination gives up though it is prepared": _destination(
        (Destination.PREPARED, Event.GIVE_UP), Turn(Destination.NONE, (Message.REFUSED,))
    ),
    "the destination never asks": _destination((Destination.PREPARED, Event.AGAIN), None),
    "the destination runs the guest without being told": _destination(
        (Destination.PREPARED, Event.AGAIN), Turn(Destination.OWNED, (Message.OWNED,))
    ),
    "the destination says owned when it is prepared": _destination(
        (Destination.RECEIVING, Message.MEMORY), Turn(Destination.PREPARED, (Message.PREPARED, Message.OWNED))
    ),
    "owned is not durable": _destination((Destination.OWNED, Event.RESTART), Turn(Destination.NONE)),
    "owned is said only once": _destination((Destination.OWNED, Message.COMMIT), None),
    "the destination believes an old `mine`": _destination((Destination.OWNED, Message.ABORT), Turn(Destination.NONE)),
    "prepared before the memory is whole": _destination(
        (Destination.RECEIVING, Message.OFFER), Turn(Destination.OWNED, (Message.ACCEPTED,))
    ),
}


@pytest.mark.parametrize("wrong", BROKEN)
def test_broken_tables_are_found(wrong: str) -> None:
    _, findings = check(Model(*BROKEN[wrong], migrations=1))
    assert findings, "the checker believes it"
    assert all(isinstance(step, Step) for finding in findings for step in finding.way)
