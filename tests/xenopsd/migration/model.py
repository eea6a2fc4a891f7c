# SPDX-License-Identifier: Apache-2.0
"""All that can happen to two tables and a bad network: an explicit-state checker. Pure.

The network is a set: whatever was sent may arrive at any later time, any number of times, in any order, or never, and at
any moment all that is on its way may be lost. Either end may restart at any moment, any number of times. A machine that
was kept may set out again, and messages of the first migration then meet the second.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from xenopsd.migration.handshake import MAY_RUN, Destination, Event, Message, Source, Table

_TO_SOURCE = frozenset({Message.ACCEPTED, Message.REFUSED, Message.PREPARED, Message.ASK, Message.OWNED})


class Letter(NamedTuple):
    """A message of the n-th migration."""

    message: Message
    nth: int


class World(NamedTuple):
    """Both ends, and what was ever sent."""

    nth: int  # which migration the source is at
    source: Source
    held: int  # which one the destination knows of, 0 for none
    destination: Destination
    sent: frozenset[Letter]


class Step(NamedTuple):
    """Something that happens: at which end, what, and of which migration."""

    end: str
    what: Message | Event | None  # None: the network loses all that is on its way
    nth: int


class Finding(NamedTuple):
    """What is wrong, and the shortest way there."""

    wrong: str
    way: tuple[Step, ...]


FIRST = World(0, Source.KEPT, 0, Destination.NONE, frozenset())
FAULTS = (Event.RESTART, Event.BEGIN, Event.RECLAIM, None)  # nobody may rely on these


class Model:
    """The tables, for as many migrations of one machine; with `reclaims`, by an operator who may be wrong."""

    def __init__(
        self, source: Table[Source], destination: Table[Destination], *, migrations: int = 2, reclaims: bool = False
    ) -> None:
        self._source, self._destination, self._migrations = source, destination, migrations
        self._events = [event for event in Event if event is not Event.RECLAIM or reclaims]

    def steps(self, world: World) -> Iterator[tuple[Step, World]]:
        """What can happen next, and what is then."""
        for event in self._events:
            yield from self._at_source(world, event, world.nth + (event is Event.BEGIN))
            yield from self._at_destination(world, event, world.held)
        if world.sent:
            yield Step("network", None, 0), world._replace(sent=frozenset())
        for letter in world.sent:
            if letter.message in _TO_SOURCE:
                yield from self._at_source(world, letter.message, letter.nth)
            else:
                yield from self._at_destination(world, letter.message, letter.nth)

    def _at_source(self, world: World, what: Message | Event, nth: int) -> Iterator[tuple[Step, World]]:
        state = world.source
        if isinstance(what, Message) and nth != world.nth:  # of one that was given up
            state = Source.KEPT
        if what is Event.BEGIN and nth > self._migrations:
            return
        turn = self._source.get((state, what))
        if turn is None:
            return
        sent = world.sent | {Letter(message, nth) for message in turn.sends}
        if isinstance(what, Message) and nth != world.nth:
            yield Step("source", what, nth), world._replace(sent=sent)
        else:
            yield Step("source", what, nth), world._replace(nth=nth, source=turn.then, sent=sent)

    def _at_destination(self, world: World, what: Message | Event, nth: int) -> Iterator[tuple[Step, World]]:
        state = world.destination
        if isinstance(what, Message) and nth != world.held and state is not Destination.NONE:
            if what is Message.OFFER and state is not Destination.OWNED:  # first: what became of the other one?
                yield (
                    Step("destination", what, nth),
                    world._replace(sent=world.sent | {Letter(Message.ASK, world.held)}),
                )
            return
        turn = self._destination.get((state, what))
        if turn is None:
            return
        held = 0 if turn.then is Destination.NONE else nth
        sent = world.sent | {Letter(message, nth) for message in turn.sends}
        yield Step("destination", what, nth), world._replace(held=held, destination=turn.then, sent=sent)


def settled(world: World) -> bool:
    """One end has the machine, and the other knows that it has not."""
    return (world.source, world.destination) in (
        (Source.KEPT, Destination.NONE),
        (Source.GONE, Destination.OWNED),
    )


def two_run(world: World) -> bool:
    """Both ends' guests may run."""
    return world.source in MAY_RUN and world.destination in MAY_RUN


def check(model: Model) -> tuple[int, list[Finding]]:
    """How many worlds can be reached, and what is wrong with some of them."""
    came: dict[World, tuple[World, Step] | None] = {FIRST: None}
    back: dict[World, list[World]] = {}
    waiting = deque([FIRST])
    findings: dict[str, World] = {}
    while waiting:
        world = waiting.popleft()
        if two_run(world):
            findings.setdefault("two run", world)
        for step, then in model.steps(world):
            if step.what not in FAULTS:
                back.setdefault(then, []).append(world)
            if then not in came:
                came[then] = world, step
                waiting.append(then)
    can_settle = _can_settle(came, back)
    if lost := next((world for world in came if world not in can_settle), None):
        findings["nobody ever has it"] = lost
    if stuck := next((world for world in came if not _can_keep(model, world)), None):
        findings["the source hangs on the destination"] = stuck
    return len(came), [Finding(wrong, _way(came, world)) for wrong, world in findings.items()]


def _can_settle(came: dict[World, tuple[World, Step] | None], back: dict[World, list[World]]) -> set[World]:
    """From where, without any further fault, it can still come to a good end."""
    good = {world for world in came if settled(world)}
    waiting = deque(good)
    while waiting:
        for before in back.get(waiting.popleft(), ()):
            if before not in good:
                good.add(before)
                waiting.append(before)
    return good


def _can_keep(model: Model, world: World) -> bool:
    """Before it has decided, the source can have the machine back without any help."""
    if world.source in (Source.GIVEN, Source.GONE, Source.KEPT):
        return True
    return any(
        step.end == "source" and step.what is Event.GIVE_UP and then.source is Source.KEPT
        for step, then in model.steps(world)
    )


def _way(came: dict[World, tuple[World, Step] | None], world: World) -> tuple[Step, ...]:
    way: list[Step] = []
    while (before := came[world]) is not None:
        world, step = before
        way.append(step)
    return tuple(reversed(way))
