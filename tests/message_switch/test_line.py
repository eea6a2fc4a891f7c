# SPDX-License-Identifier: Apache-2.0
"""How messages wait, against a sorted list; and whose time runs out when others stood before them."""

from hypothesis import given
from hypothesis import strategies as st
from pika import BasicProperties

from message_switch.model.broker import Broker
from message_switch.model.line import Line, Ranks, Waiting
from message_switch.model.message import Entry, Message
from message_switch.model.queue import FOREVER
from message_switch.model.recovery import restore, snapshot


def header(priority: int | None) -> bytes:
    return b"".join(BasicProperties(priority=priority).encode())


def published(key: str, body: bytes, priority: int | None = None, ttl_ms: int | None = None) -> Message:
    return Message("", key, header(priority), body, ttl_ms=ttl_ms, persistent=True)


@given(
    st.none() | st.integers(0, 255),
    st.lists(st.none() | st.integers(0, 255) | st.sampled_from(("leave", "back", "all"))),
)
def test_they_leave_by_rank_and_then_by_age(most: int | None, moves: list[int | str | None]) -> None:
    line: Waiting = Line() if most is None else Ranks(most)
    expected: list[tuple[int, int]] = []
    out: list[tuple[int, Entry]] = []
    for position, move in enumerate(moves):
        if move == "leave" and expected:
            rank, at = expected.pop(0)
            assert line[0].position == at
            out.append((rank, line.popleft()))
        elif move == "back" and out:
            rank, entry = out.pop(0)
            line.put_back(entry)
            expected.append((rank, entry.position))
        elif move == "all":
            line.clear()
            expected.clear()
        elif not isinstance(move, str):
            line.append(Entry(published("q", b"", move), position, float(position), FOREVER))
            expected.append((0 if most is None else -min(move or 0, most), position))
        expected.sort()
        assert [entry.position for entry in line] == [at for _, at in expected]
        assert (len(line), bool(line)) == (len(expected), bool(expected))
        if expected:
            assert line.oldest_at() == min(at for _, at in expected)


def declared(broker: Broker, name: str, **arguments: object) -> None:
    untrusted = {f"x-{key.replace('_', '-')}": value for key, value in arguments.items()}
    broker.declare_queue(name, None, durable=True, exclusive=False, auto_delete=False, untrusted=untrusted)


def test_whoever_comes_to_the_head_is_looked_at() -> None:
    """It waited behind one without a time limit: when that leaves, its own has run out, or is watched from now on."""
    alarms: list[float] = []
    broker = Broker(alarm_clock=alarms.append)
    declared(broker, "dead")
    declared(broker, "q", dead_letter_exchange="", dead_letter_routing_key="dead")
    for body, ttl_ms in ((b"stays", None), (b"short", 1000), (b"long", 9000)):
        broker.publish(published("q", body, ttl_ms=ttl_ms), None)
    broker.now = 5.0
    broker.sweep()
    assert len(broker.queues["q"].ready) == 3
    alarms.clear()
    taken = broker.queues["q"].get(no_ack=True)
    assert taken is not None
    assert taken.message.body == b"stays"
    assert [entry.message.body for entry in broker.queues["dead"].ready] == [b"short"]
    assert alarms == [9.0]


def test_priorities_outlive_a_restart() -> None:
    broker = Broker()
    declared(broker, "q", max_priority=3)
    for body, priority in ((b"low", 1), (b"high", 3)):
        broker.publish(published("q", body, priority), None)
    again = Broker()
    restore(again, snapshot(broker))
    assert [entry.message.body for entry in again.queues["q"].ready] == [b"high", b"low"]
