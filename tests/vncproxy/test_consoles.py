# SPDX-License-Identifier: Apache-2.0
"""What vncproxy knows of consoles is what xenopsd knows, whatever the order of the facts."""

from dataclasses import dataclass, field

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vncproxy.consoles import EVERYTHING, Consoles
from xenops.events import Change, Event, Kind, encode
from xenops.types.console import Console, ConsoleProtocol, VmConsole
from xenops.types.vm import Hvm, PowerState, Vm, VmStat, VmState

TEXT = Console(protocol=ConsoleProtocol.VT100, path="/run/text")
PICTURE = Console(protocol=ConsoleProtocol.RFB, port=5901)


def stat(id: str, power_state: PowerState = PowerState.RUNNING, *consoles: Console) -> VmStat:
    return VmStat(
        vm=Vm(id=id, name=f"name of {id}", ty=Hvm()), state=VmState(power_state=power_state, consoles=list(consoles))
    )


def event(seq: int, id: str = "a", change: Change = Change.CHANGED, kind: Kind = Kind.VM, epoch: str = "e") -> bytes:
    return encode(Event(epoch=epoch, seq=seq, host="h", instance="s", kind=kind, id=id, change=change, at=0))


def settled(seq: int = 0) -> Consoles:
    """One that has followed events up to `seq`, and has no question left."""
    consoles = Consoles()
    consoles.heed(event(seq, "none"))
    assert consoles.ask() is EVERYTHING
    consoles.learn_all([])
    assert consoles.ask() is None
    return consoles


def test_at_first_everything_is_asked() -> None:
    consoles = Consoles()
    assert consoles.ask() is EVERYTHING
    assert consoles.ask() is None
    consoles.learn_all([stat("a", PowerState.RUNNING, TEXT, PICTURE), stat("b", PowerState.HALTED, TEXT)])
    assert consoles.list() == [
        VmConsole(vm="a", name="name of a", console=TEXT),
        VmConsole(vm="a", name="name of a", console=PICTURE),
    ]
    assert consoles.find("a", ConsoleProtocol.RFB) == PICTURE
    assert consoles.find("b", ConsoleProtocol.VT100) is None
    assert consoles.find("c", ConsoleProtocol.VT100) is None


def test_a_paused_machine_has_its_console_and_a_suspended_one_has_not() -> None:
    consoles = settled()
    consoles.learn(stat("a", PowerState.PAUSED, TEXT))
    assert consoles.find("a", ConsoleProtocol.VT100) == TEXT
    consoles.learn(stat("a", PowerState.SUSPENDED, TEXT))
    assert consoles.list() == []


def test_an_event_asks_about_its_machine_alone() -> None:
    consoles = settled(7)
    consoles.heed(event(8, "a"))
    consoles.heed(event(9, "b"))
    consoles.heed(event(10, "a"))
    assert [consoles.ask(), consoles.ask(), consoles.ask()] == ["a", "b", None]


def test_an_event_of_another_kind_asks_nothing() -> None:
    consoles = settled(7)
    consoles.heed(event(8, "a.hda", kind=Kind.VBD))
    consoles.heed(event(9, "12", kind=Kind.TASK))
    assert consoles.ask() is None


@pytest.mark.parametrize(
    "next_event",
    [
        event(9),
        event(7),
        event(8, epoch="other"),
        event(8, kind=Kind.SERVICE),
        b"",
        b"\xc1",
        b"\x93\x01\x02",
        b"\xa1\xff",
    ],
    ids=["gap", "repeated", "epoch", "service", "empty", "invalid", "array", "utf8"],
)
def test_a_gap_or_what_is_no_event_asks_everything(next_event: bytes) -> None:
    consoles = settled(7)
    consoles.heed(next_event)
    assert consoles.ask() is EVERYTHING
    assert consoles.ask() is None


def test_fields_of_a_newer_event_are_ignored() -> None:
    consoles = settled(7)
    newer = msgspec.msgpack.decode(event(8, "a")) | {"mood": "good"}
    consoles.heed(msgspec.msgpack.encode(newer))
    assert consoles.ask() == "a"


def test_a_removed_machine_is_gone_at_once() -> None:
    consoles = settled(7)
    consoles.learn(stat("a", PowerState.RUNNING, TEXT))
    consoles.heed(event(8, "a", Change.REMOVED))
    assert consoles.list() == []


def test_what_went_unanswered_is_asked_again() -> None:
    consoles = settled(7)
    consoles.ask_again("a")
    assert consoles.ask() == "a"
    consoles.ask_again(EVERYTHING)
    assert consoles.ask() is EVERYTHING


@given(st.lists(st.binary(max_size=60), max_size=10))
def test_no_bytes_break_it(untrusted: list[bytes]) -> None:
    consoles = Consoles()
    for some in untrusted:
        consoles.heed(some)
    assert consoles.ask() is EVERYTHING


@given(
    fields=st.dictionaries(
        st.sampled_from(["epoch", "seq", "host", "instance", "kind", "id", "change", "at", "service", "x"]),
        st.none() | st.integers(-5, 5) | st.text(max_size=3) | st.sampled_from(["vm", "added", "task"]),
    )
)
def test_no_map_breaks_it(fields: dict[str, object]) -> None:
    consoles = Consoles()
    consoles.heed(msgspec.msgpack.encode(fields))
    assert consoles.ask() is EVERYTHING


@dataclass
class World:
    """A xenopsd: its machines, the events under way, and the one question that is being answered."""

    machines: dict[str, VmStat] = field(default_factory=dict)
    events: list[bytes] = field(default_factory=list)
    answers: list[object] = field(default_factory=list)
    seq: int = 0

    def change(self, id: str, consoles: int) -> None:
        self.seq += 1
        change = Change.CHANGED
        if consoles < 0:
            self.machines.pop(id, None)
            change = Change.REMOVED
        else:
            power_state = PowerState.RUNNING if consoles else PowerState.HALTED
            self.machines[id] = stat(id, power_state, *[TEXT, PICTURE][:consoles])
        self.events.append(event(self.seq, id, change))

    def answer(self, consoles: Consoles, question: object) -> None:
        """As xenopsd is at the time of the question; it arrives later."""
        self.answers.append((question, dict(self.machines)))

    def deliver_answer(self, consoles: Consoles) -> None:
        question, machines = self.answers.pop(0)  # type: ignore[misc]
        if question is EVERYTHING:
            consoles.learn_all(machines.values())
        elif question in machines:
            consoles.learn(machines[question])
        else:
            consoles.forget(question)


Step = st.one_of(
    st.tuples(st.just("change"), st.sampled_from("abc"), st.integers(-1, 2)),
    st.tuples(st.sampled_from(["deliver", "lose", "gap", "ask", "answer"])),
)


@given(steps=st.lists(Step, max_size=60))
def test_in_the_end_it_knows_what_xenopsd_knows(steps: list[tuple[object, ...]]) -> None:
    """Events arrive late, get lost (and the bus says so), and answers cross with events: one question at a time."""
    consoles, world = Consoles(), World()
    for step in steps:
        if step[0] == "change":
            world.change(step[1], step[2])  # type: ignore[arg-type]
        elif step[0] == "deliver" and world.events:
            consoles.heed(world.events.pop(0))
        elif step[0] == "lose" and world.events:
            world.events.pop(0)  # the next one shows it; if there is none, the last `gap` does
        elif step[0] == "gap":
            consoles.lose_track()
        elif step[0] == "ask" and not world.answers and (question := consoles.ask()) is not None:
            world.answer(consoles, question)
        elif step[0] == "answer" and world.answers:
            world.deliver_answer(consoles)
    world.change("d", 0)  # an event that does arrive, after which every loss is known
    for late in world.events:
        consoles.heed(late)
    while world.answers:
        world.deliver_answer(consoles)
    while (question := consoles.ask()) is not None:
        world.answer(consoles, question)
        world.deliver_answer(consoles)
    truth = {(id, one.protocol) for id, of in world.machines.items() for one in of.state.consoles}
    assert {(one.vm, one.console.protocol) for one in consoles.list()} == truth
